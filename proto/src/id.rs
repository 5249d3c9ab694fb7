//! Names of things: a site, a shard of schedules, a lease's epoch, a region.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::Invalid;

/// The number of a watched site; given by Postgres, never used again after the site is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SiteId(pub i64);

/// A fixed slice of all schedules; a site is in one shard with all its regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Shard(pub u16);

/// The number of a lease's holder on a shard: one more each time that the shard is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub i64);

macro_rules! display_as_number {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}
display_as_number!(SiteId, Shard, Epoch);

/// A named place that probers run in: lower-case letters, digits and `-`, at most 32 of them.
///
/// The name is a token of NATS subjects, which is why its letters are few, and why `any`, `all` and `adhoc`
/// (tokens with a meaning of their own) are refused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Region(Arc<str>);

impl Region {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = 32;
    const RESERVED: [&str; 3] = ["any", "all", "adhoc"];
    const ALLOWED: &str = "1 to 32 of a-z, 0-9 and '-', not 'any', 'all' or 'adhoc'";

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Region {
    type Err = Invalid;

    fn from_str(name: &str) -> Result<Self, Invalid> {
        let lettered = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if name.is_empty() || name.len() > Self::MAX_LEN || !lettered || Self::RESERVED.contains(&name) {
            return Err(Invalid::new("region", name, Self::ALLOWED));
        }
        Ok(Self(name.into()))
    }
}

impl TryFrom<String> for Region {
    type Error = Invalid;

    fn try_from(name: String) -> Result<Self, Invalid> {
        name.parse()
    }
}

impl From<Region> for String {
    fn from(region: Region) -> Self {
        region.0.as_ref().to_owned()
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_lower_case_letters_digits_and_dashes() {
        for good in ["local", "eu-west", "us1", &"a".repeat(32)] {
            assert_eq!(good.parse::<Region>().unwrap().as_str(), good);
        }
        for bad in ["", "EU", "eu west", "eu.west", "any", "all", "adhoc", "ü", ">", &"a".repeat(33)] {
            let refusal = bad.parse::<Region>().unwrap_err();
            assert_eq!((refusal.field.as_str(), refusal.value.as_str()), ("region", bad));
        }
    }
}
