//! Sort keys of lists, and cursors: the key and the id of the last row of a page.

use std::str::FromStr;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use picket_proto::{Timestamp, ValidationError};
use serde::{Deserialize, Serialize};
use sqlx::{Postgres, QueryBuilder};

use super::{SiteState, SiteSummary, filter::SiteTable};
use crate::DbTimestamp;

/// Order of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The least first.
    Ascending,
    /// The greatest first.
    Descending,
}

/// Column by which a list is sorted. Rows without a value are last in either direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SiteSort {
    /// The name, or the URL.
    Name,
    /// The state, the most urgent first.
    State,
    /// Start of the state.
    StateSince,
    /// Uptime of 24 hours.
    Uptime24h,
    /// Uptime of 7 days.
    Uptime7d,
    /// Uptime of 30 days.
    Uptime30d,
    /// Uptime of 90 days.
    Uptime90d,
    /// Coverage of 24 hours.
    Coverage,
    /// Median duration of 24 hours.
    P50,
    /// 95th percentile of the duration of 24 hours.
    P95,
    /// Time of creation.
    Created,
}

impl SiteSort {
    /// All sort keys.
    pub const ALL_SORTS: [Self; 11] = [
        Self::Name,
        Self::State,
        Self::StateSince,
        Self::Uptime24h,
        Self::Uptime7d,
        Self::Uptime30d,
        Self::Uptime90d,
        Self::Coverage,
        Self::P50,
        Self::P95,
        Self::Created,
    ];

    /// The word for the sort key.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::State => "state",
            Self::StateSince => "state_since",
            Self::Uptime24h => "uptime_24h",
            Self::Uptime7d => "uptime_7d",
            Self::Uptime30d => "uptime_30d",
            Self::Uptime90d => "uptime_90d",
            Self::Coverage => "coverage",
            Self::P50 => "p50",
            Self::P95 => "p95",
            Self::Created => "created",
        }
    }

    pub(super) fn column(self) -> &'static str {
        match self {
            Self::Name => "text.sort_name",
            Self::State => "condition.state",
            Self::StateSince => "condition.state_since",
            Self::Uptime24h => "statistic.uptime_24h_pct",
            Self::Uptime7d => "statistic.uptime_7d_pct",
            Self::Uptime30d => "statistic.uptime_30d_pct",
            Self::Uptime90d => "statistic.uptime_90d_pct",
            Self::Coverage => "statistic.coverage_24h_pct",
            Self::P50 => "statistic.p50_us",
            Self::P95 => "statistic.p95_us",
            // Ids rise with the time of creation.
            Self::Created => "site.id",
        }
    }

    /// The table of the sort key, of which an index has the key and the site's id.
    pub(super) fn table(self) -> SiteTable {
        match self {
            Self::Name => SiteTable::Texts,
            Self::State | Self::StateSince => SiteTable::Conditions,
            Self::Created => SiteTable::Sites,
            _ => SiteTable::Statistics,
        }
    }

    pub(super) fn is_nullable(self) -> bool {
        self.table() == SiteTable::Statistics
    }

    pub(super) fn key_of(self, row: &SiteSummary) -> SortKey {
        let percentage = |value: Option<f64>| value.map_or(SortKey::Null, SortKey::Percentage);
        let micros = |value: Option<i32>| value.map_or(SortKey::Null, SortKey::Micros);
        match self {
            Self::Name => SortKey::Text(row.sort_name.clone()),
            Self::State => SortKey::State(row.state),
            Self::StateSince => SortKey::Time(row.state_since.into()),
            Self::Uptime24h => percentage(row.uptime_24h_pct),
            Self::Uptime7d => percentage(row.uptime_7d_pct),
            Self::Uptime30d => percentage(row.uptime_30d_pct),
            Self::Uptime90d => percentage(row.uptime_90d_pct),
            Self::Coverage => percentage(row.coverage_24h_pct),
            Self::P50 => micros(row.p50_us),
            Self::P95 => micros(row.p95_us),
            Self::Created => SortKey::Null,
        }
    }

    fn parse_key(self, text: Option<&str>) -> Option<SortKey> {
        let Some(text) = text else {
            return (self.is_nullable() || self == Self::Created).then_some(SortKey::Null);
        };
        match self {
            Self::Name => (!text.contains('\0')).then(|| SortKey::Text(text.to_owned())),
            Self::State => text.parse().ok().map(SortKey::State),
            Self::StateSince => text.parse().ok().map(|us| SortKey::Time(Timestamp::from_micros(us))),
            Self::P50 | Self::P95 => text.parse().ok().map(SortKey::Micros),
            Self::Created => None,
            _ => text.parse().ok().filter(|value: &f64| value.is_finite()).map(SortKey::Percentage),
        }
    }
}

impl FromStr for SiteSort {
    type Err = ValidationError;

    fn from_str(word: &str) -> Result<Self, ValidationError> {
        let sort = Self::ALL_SORTS.into_iter().find(|sort| sort.as_str() == word);
        sort.ok_or_else(|| ValidationError::new("sort", word, Self::ALL_SORTS.map(Self::as_str).join(", ")))
    }
}

/// Value of the sort key of a row.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum SortKey {
    Null,
    Text(String),
    State(SiteState),
    Time(Timestamp),
    Percentage(f64),
    Micros(i32),
}

impl SortKey {
    pub(super) fn push_bind(&self, query: &mut QueryBuilder<Postgres>) {
        match self {
            Self::Null => query.push("NULL"),
            Self::Text(text) => query.push_bind(text.clone()).push(" COLLATE \"C\""),
            Self::State(state) => query.push_bind(state.as_str()).push("::text::picket.site_state"),
            Self::Time(at) => query.push_bind(DbTimestamp(*at)),
            Self::Percentage(value) => query.push_bind(*value),
            Self::Micros(value) => query.push_bind(*value),
        };
    }

    /// The key as text that reads back to exactly the same value.
    fn to_text(&self) -> Option<String> {
        match self {
            Self::Null => None,
            Self::Text(text) => Some(text.clone()),
            Self::State(state) => Some(state.as_str().to_owned()),
            Self::Time(at) => Some(at.as_micros().to_string()),
            Self::Percentage(value) => Some(value.to_string()),
            Self::Micros(value) => Some(value.to_string()),
        }
    }
}

/// Position after a row of a sorted list.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PageCursor {
    pub(super) sort: SiteSort,
    pub(super) direction: Direction,
    pub(super) key: SortKey,
    pub(super) id: i64,
}

/// The JSON within the text of a cursor.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PageCursorText {
    sort: String,
    direction: Direction,
    key: Option<String>,
    id: i64,
}

impl PageCursor {
    pub(super) fn encode(&self) -> String {
        encode_cursor(&PageCursorText {
            sort: self.sort.as_str().to_owned(),
            direction: self.direction,
            key: self.key.to_text(),
            id: self.id,
        })
    }

    pub(super) fn decode(text: &str, sort: SiteSort, direction: Direction) -> Result<Self, ValidationError> {
        let refusal = || {
            let allowed = "the next_cursor of a page of the same list in the same order";
            ValidationError::new("cursor", text, allowed)
        };
        let decoded: PageCursorText = decode_cursor(text)?;
        if decoded.sort != sort.as_str() || decoded.direction != direction {
            return Err(refusal());
        }
        let key = sort.parse_key(decoded.key.as_deref()).ok_or_else(refusal)?;
        Ok(Self { sort, direction, key, id: decoded.id })
    }
}

/// Maximum length of the text of a cursor; a name may be escaped in JSON.
const MAX_CURSOR_BYTES: usize = 8_192;

/// Encodes a position as base64url of JSON.
pub(crate) fn encode_cursor(position: &impl Serialize) -> String {
    // Strings, numbers and nulls always serialize.
    BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(position).unwrap_or_default())
}

/// Decodes a position.
pub(crate) fn decode_cursor<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, ValidationError> {
    let position = (text.len() <= MAX_CURSOR_BYTES)
        .then(|| BASE64_URL_SAFE_NO_PAD.decode(text).ok())
        .flatten()
        .and_then(|json| serde_json::from_slice(&json).ok());
    position.ok_or_else(|| ValidationError::new("cursor", text, "the next_cursor of a page of the same list"))
}
