//! Versions of rows that clients change after they have read them.

use std::fmt;

/// Version of a row: the number of the transaction that wrote it last, which every write replaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RowVersion(String);

impl RowVersion {
    /// As text, to bind.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RowVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<String> for RowVersion {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<RowVersion> for String {
    fn from(version: RowVersion) -> Self {
        version.0
    }
}
