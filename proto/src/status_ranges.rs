//! Allowed HTTP statuses, such as `200-299,301`.

use std::{fmt, str::FromStr};

use crate::ValidationError;

/// A list of statuses and status ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusRanges(Vec<(u16, u16)>);

impl StatusRanges {
    const EXPECTED_FORMAT: &str = "statuses and ranges from 100 to 599, such as 200-299,301";
    const MAX_RANGES: usize = 32;

    /// Returns true if `status` is allowed.
    pub fn allows_status(&self, status: u16) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&status))
    }
}

impl Default for StatusRanges {
    fn default() -> Self {
        Self(vec![(200, 299)])
    }
}

impl FromStr for StatusRanges {
    type Err = ValidationError;

    fn from_str(text: &str) -> Result<Self, ValidationError> {
        let refusal = || ValidationError::new("status", text, Self::EXPECTED_FORMAT);
        let number = |digits: &str| {
            let status: u16 = digits.trim().parse().ok()?;
            (100..=599).contains(&status).then_some(status)
        };
        let parts: Vec<(u16, u16)> = text
            .split(',')
            .map(|part| {
                // A single status is a range of length one.
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                let range = (number(first)?, number(last)?);
                (range.0 <= range.1).then_some(range)
            })
            .collect::<Option<_>>()
            .ok_or_else(refusal)?;
        if parts.len() > Self::MAX_RANGES {
            return Err(refusal());
        }
        Ok(Self(parts))
    }
}

impl fmt::Display for StatusRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_rule_allows_exactly_its_statuses_and_ranges() {
        let rule: StatusRanges = "200-299, 301".parse().unwrap();

        assert!([200, 299, 301].iter().all(|status| rule.allows_status(*status)));
        assert!([199, 300, 302, 404].iter().all(|status| !rule.allows_status(*status)));
        assert_eq!(rule.to_string(), "200-299,301");
    }

    #[test]
    fn an_invalid_status_rule_is_refused() {
        for bad in
            ["", "2xx", "99", "600", "299-200", "200,", "200-", "-200", "200-299-300", &"200,".repeat(40)]
        {
            assert_eq!(bad.parse::<StatusRanges>().unwrap_err().field, "status", "{bad}");
        }
    }
}
