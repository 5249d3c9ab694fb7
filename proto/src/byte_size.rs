//! Sizes as people type them.

use std::{fmt, str::FromStr};

/// Number of bytes as typed by people: `4096`, `512KiB`, `64MiB`, `8GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Largest first, because a size is shown in the largest unit that divides it exactly.
const BYTE_UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let typed = text.trim().to_ascii_lowercase();
        // `k` means `KiB`, because no limit depends on a difference of up to 10 %.
        let unit = BYTE_UNITS.iter().find_map(|(name, bytes)| {
            let name = name.to_ascii_lowercase();
            let number = typed.strip_suffix(&name).or_else(|| typed.strip_suffix(&name[..1]))?;
            Some((number, *bytes))
        });
        let (number, bytes) = unit.unwrap_or((typed.strip_suffix('b').unwrap_or(&typed), 1));
        let number = number.trim().parse::<u64>().ok();
        number.and_then(|number| number.checked_mul(bytes)).map(Self).ok_or_else(|| {
            format!("'{text}' is no size; allowed: a whole number with KiB, MiB, GiB or TiB, such as 8GiB")
        })
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match BYTE_UNITS.iter().find(|(_, bytes)| self.0 >= *bytes && self.0.is_multiple_of(*bytes)) {
            Some((name, bytes)) => write!(f, "{}{name}", self.0 / bytes),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_parses_in_its_usual_notations() {
        for (text, bytes) in
            [("2048", 2_048), ("512KiB", 512 << 10), ("64 MiB", 64 << 20), ("2m", 2 << 20), ("8GiB", 8 << 30)]
        {
            assert_eq!(text.parse::<ByteSize>().unwrap().0, bytes, "{text}");
        }
        assert_eq!(ByteSize(8 << 30).to_string(), "8GiB");
        assert_eq!(ByteSize(1_500).to_string(), "1500");
        for bad in ["", "GiB", "-1", "1.5GiB", "99999999999TiB"] {
            assert!(bad.parse::<ByteSize>().unwrap_err().contains("8GiB"), "{bad}");
        }
    }
}
