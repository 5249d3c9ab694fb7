//! Values of secrets: zeroed when dropped, and never printed.

use std::{fmt, sync::Arc};

use zeroize::Zeroizing;

/// Value of a secret. Clones share the bytes, which are zeroed with the last clone.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Arc<Zeroizing<String>>);

impl SecretValue {
    /// Takes ownership of `text`, which is zeroed when the last clone is dropped.
    pub fn new(text: String) -> Self {
        Self(Arc::new(Zeroizing::new(text)))
    }

    /// The value itself. The caller must not log, store or publish it.
    pub fn expose_text(&self) -> &str {
        &self.0
    }

    /// The bytes of the value. The caller must not log, store or publish them.
    pub fn expose_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_debug_form_of_a_value_is_the_same_for_every_value() {
        let value = SecretValue::new("hunter2-hunter2".to_owned());

        assert_eq!(format!("{value:?} {:?}", Some(&value)), "SecretValue(hidden) Some(SecretValue(hidden))");
    }
}
