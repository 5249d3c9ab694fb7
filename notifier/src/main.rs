//! The notifier process.

fn main() {}
