//! Panics that a test injects into a task of the code under test.
//!
//! The task calls [`panic_if_injected`] in its loop, behind `#[cfg(test)]`.

use parking_lot::Mutex;

/// Task whose next turn panics.
static INJECTED: Mutex<Option<&str>> = Mutex::new(None);

/// Makes the next turn of `task` panic.
pub fn inject_panic(task: &'static str) {
    *INJECTED.lock() = Some(task);
}

/// Panics once if the test has injected a panic into `task`.
///
/// # Panics
/// See above.
pub fn panic_if_injected(task: &str) {
    let is_injected = INJECTED.lock().take_if(|injected| *injected == task).is_some();
    assert!(!is_injected, "injected into {task}");
}
