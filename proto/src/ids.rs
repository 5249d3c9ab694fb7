//! Identifiers of sites, shards, lease epochs and regions.

use std::{fmt, str::FromStr, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ValidationError;

/// Number of a site, assigned by Postgres. The number of a deleted site is never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct SiteId(pub i64);

/// A fixed part of all sites. All schedules of a site are in the same shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Shard(pub u16);

/// Number of a lease's acquisition, incremented with each acquisition of the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Epoch(pub i64);

macro_rules! impl_numeric_display {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}
impl_numeric_display!(SiteId, Shard, Epoch);

/// Name of a place where probers run: at most 32 lower-case letters, digits and `-`.
///
/// The name is a token of NATS subjects. For this reason the alphabet is small, and the tokens with
/// a meaning of their own (`any`, `all`, `adhoc`) are rejected.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct RegionName(Arc<str>);

impl RegionName {
    /// Maximum length of a name, in bytes.
    pub const MAX_BYTES: usize = 32;
    const RESERVED_NAMES: [&str; 3] = ["any", "all", "adhoc"];
    const EXPECTED_FORMAT: &str = "1 to 32 of a-z, 0-9 and '-', not 'any', 'all' or 'adhoc'";

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RegionName {
    type Err = ValidationError;

    fn from_str(name: &str) -> Result<Self, ValidationError> {
        let lettered = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if name.is_empty()
            || name.len() > Self::MAX_BYTES
            || !lettered
            || Self::RESERVED_NAMES.contains(&name)
        {
            return Err(ValidationError::new("region", name, Self::EXPECTED_FORMAT));
        }
        Ok(Self(name.into()))
    }
}

impl TryFrom<String> for RegionName {
    type Error = ValidationError;

    fn try_from(name: String) -> Result<Self, ValidationError> {
        name.parse()
    }
}

impl From<RegionName> for String {
    fn from(region: RegionName) -> Self {
        region.0.as_ref().to_owned()
    }
}

impl fmt::Display for RegionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_name_is_lower_case_letters_digits_and_dashes() {
        for good in ["local", "eu-west", "us1", &"a".repeat(32)] {
            assert_eq!(good.parse::<RegionName>().unwrap().as_str(), good);
        }
        for bad in ["", "EU", "eu west", "eu.west", "any", "all", "adhoc", "ü", ">", &"a".repeat(33)] {
            let refusal = bad.parse::<RegionName>().unwrap_err();
            assert_eq!((refusal.field.as_str(), refusal.value.as_str()), ("region", bad));
        }
    }
}
