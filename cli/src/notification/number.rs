//! Numbers of notifications on the command line: whole, or by their last digits as lists show them.

use std::str::FromStr;

use picket_store::{Store, notifications::find_numbers_by_ending};
use uuid::Uuid;

use super::unknown_notification;
use crate::error::Error;

/// Number of digits in a list: the random ones, which differ.
const LISTED_DIGITS: usize = 12;
/// Least number of digits that are looked up.
const MIN_DIGITS: usize = 6;

/// A number, or its last digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NumberArg(String);

impl FromStr for NumberArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim().to_ascii_lowercase();
        let is_digit = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
        match (MIN_DIGITS..=36).contains(&number.len()) && number.bytes().all(is_digit) {
            true => Ok(Self(number)),
            false => {
                Err("a number is needed, whole or its last 12 digits, as 'picket notification list' shows it"
                    .to_owned())
            }
        }
    }
}

impl NumberArg {
    /// The whole number.
    ///
    /// # Errors
    /// If no notification has it, or several do.
    pub(super) async fn find_number(&self, store: &Store) -> Result<Uuid, Error> {
        let Self(text) = self;
        if let Ok(number) = Uuid::parse_str(text) {
            return Ok(number);
        }
        match find_numbers_by_ending(store, text).await?[..] {
            [] => Err(unknown_notification(text)),
            [number] => Ok(number),
            _ => Err(Error::Usage(format!(
                "the numbers of several notifications end with {text}; give more of it"
            ))),
        }
    }
}

/// The last digits of a number, for lists.
pub(super) fn shorten_number(number: &str) -> &str {
    number.len().checked_sub(LISTED_DIGITS).and_then(|start| number.get(start..)).unwrap_or(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_given_whole_or_by_its_last_digits() {
        let whole = "0199A1B2-0c3d-7e4f-8a5b-6c7d8e9fa0b1";
        assert_eq!(whole.parse(), Ok(NumberArg(whole.to_ascii_lowercase())));
        assert_eq!(shorten_number(whole).parse(), Ok(NumberArg("6c7d8e9fa0b1".to_owned())));
        for text in ["", "0b1", "6c7d8e9fa0bx", "%%%%%%%", &"0".repeat(37)] {
            assert!(text.parse::<NumberArg>().unwrap_err().contains("last 12 digits"), "{text}");
        }
        assert_eq!(shorten_number("short"), "short");
    }
}
