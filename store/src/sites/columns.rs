//! The columns of `picket.sites` that hold the definition of a site, each listed once.

use std::collections::BTreeMap;

use picket_proto::{
    CheckRequest, HttpAssertions, HttpOptions, IpVersion, ValidationError, check::MAX_URL_BYTES,
    nested_object::decode_object, pattern, site::SiteSpec,
};
use serde_json::Value;
use sqlx::{Decode, Postgres, Row as _, Type, postgres::PgRow, types::Json};

/// A column of the definition.
pub(super) struct DefinitionColumn {
    pub(super) name: &'static str,
    pub(super) limit: SizeLimit,
}

/// Maximum size of a value that a statement returns. The database compares, so that larger values
/// are never sent.
#[derive(Clone, Copy)]
pub(super) enum SizeLimit {
    /// The type has a fixed size.
    None,
    /// Bytes of a text.
    Text(usize),
    /// Bytes as stored by the database, possibly compressed.
    Stored(usize),
    /// Bytes of a JSON value, as stored and as text.
    Json { stored: usize, text: usize },
}

/// Enough for the longest allowed headers with every character escaped in JSON.
const MAX_HEADERS: SizeLimit = SizeLimit::Json { stored: 32 << 10, text: 128 << 10 };
/// Enough for the largest allowed options or assertions, with the spaces that the database writes,
/// and with numbers, of which it stores many bytes each.
const MAX_OBJECT: SizeLimit = SizeLimit::Json { stored: 256 << 10, text: 64 << 10 };

pub(super) type SiteIdQuery<'q> =
    sqlx::query::QueryScalar<'q, sqlx::Postgres, i64, sqlx::postgres::PgArguments>;

/// Defines the list of columns, and how a definition is bound to and decoded from them.
macro_rules! definition_columns {
    ($($name:literal = $($field:ident).+, $limit:expr;)*) => {
        /// All columns of the definition, in the order of [`bind_definition`].
        pub(super) const DEFINITION_COLUMNS: &[DefinitionColumn] =
            &[$(DefinitionColumn { name: $name, limit: $limit }),*];

        /// Binds all columns of the definition.
        pub(super) fn bind_definition<'q>(query: SiteIdQuery<'q>, spec: &'q SiteSpec) -> SiteIdQuery<'q> {
            $(let query = spec.$($field).+.bind_to(query);)*
            query
        }

        /// Decodes all columns of the definition.
        pub(super) fn decode_definition(row: &PgRow) -> Result<SiteSpec, ValidationError> {
            let mut spec = SiteSpec::new("");
            $(spec.$($field).+ = ColumnValue::decode(row, $name)?;)*
            Ok(spec)
        }
    };
}

definition_columns! {
    "url" = check.url, SizeLimit::Text(MAX_URL_BYTES);
    "name" = name, SizeLimit::Text(SiteSpec::MAX_NAME_BYTES);
    "interval_seconds" = interval_seconds, SizeLimit::None;
    "timeout_ms" = check.timeout_ms, SizeLimit::None;
    "method" = check.method, SizeLimit::Text(64);
    "headers" = check.headers, MAX_HEADERS;
    "body" = check.body, SizeLimit::Text(CheckRequest::MAX_BODY_BYTES);
    "status" = check.status, SizeLimit::Text(1_024);
    "regex" = check.regex, SizeLimit::Text(pattern::MAX_PATTERN_BYTES);
    "not_regex" = check.not_regex, SizeLimit::Text(pattern::MAX_PATTERN_BYTES);
    "max_redirects" = check.max_redirects, SizeLimit::None;
    "ip_version" = check.ip_version, SizeLimit::Text(64);
    "tls_verify" = check.tls_verify, SizeLimit::None;
    "options" = check.options, MAX_OBJECT;
    "assertions" = check.assertions, MAX_OBJECT;
    "regions" = regions, SizeLimit::Stored(32 << 10);
    "enabled" = enabled, SizeLimit::None;
    "quorum" = quorum, SizeLimit::None;
    "failures_to_open" = failures_to_open, SizeLimit::None;
    "successes_to_close" = successes_to_close, SizeLimit::None;
    "tags" = tags, SizeLimit::Stored(16 << 10);
}

/// A field of a definition as the value of a column.
trait ColumnValue: Sized {
    fn bind_to<'q>(&'q self, query: SiteIdQuery<'q>) -> SiteIdQuery<'q>;

    /// Decodes the column. An undecodable value is refused by the name of the column.
    fn decode(row: &PgRow, name: &str) -> Result<Self, ValidationError>;
}

/// The field `$field` of type `$type`, as the value `$bound` in SQL.
macro_rules! column_value {
    ($type:ty, $field:ident => $bound:expr, $stored:ty => $decoded:expr, $allowed:literal) => {
        impl ColumnValue for $type {
            fn bind_to<'q>(&'q self, query: SiteIdQuery<'q>) -> SiteIdQuery<'q> {
                let $field = self;
                query.bind($bound)
            }

            fn decode(row: &PgRow, name: &str) -> Result<Self, ValidationError> {
                decode_column::<$stored>(row, name, $allowed).map($decoded)
            }
        }
    };
}

column_value!(i64, number => to_i32(*number), i32 => i64::from, "a number");
column_value!(Option<i64>, number => number.map(to_i32), Option<i32> => |number| number.map(i64::from), "a number");
column_value!(bool, flag => *flag, bool => |flag| flag, "true or false");
column_value!(String, text => text, String => |text| text, "a text");
column_value!(Option<String>, text => text, Option<String> => |text| text, "a text");
column_value!(
    Vec<String>, texts => texts, Vec<String> => |texts| texts,
    "a list of one dimension that is counted from 1, without NULL"
);

impl ColumnValue for IpVersion {
    fn bind_to<'q>(&'q self, query: SiteIdQuery<'q>) -> SiteIdQuery<'q> {
        query.bind(self.as_str())
    }

    fn decode(row: &PgRow, name: &str) -> Result<Self, ValidationError> {
        Self::parse(&decode_column::<String>(row, name, "a text")?)
    }
}

impl ColumnValue for BTreeMap<String, String> {
    fn bind_to<'q>(&'q self, query: SiteIdQuery<'q>) -> SiteIdQuery<'q> {
        query.bind(Json(self))
    }

    fn decode(row: &PgRow, name: &str) -> Result<Self, ValidationError> {
        // Decoding fails here for nesting and numbers beyond serde_json's limits, and nowhere else.
        let Value::Object(given) =
            decode_column(row, name, "an object of texts, such as {\"Accept\": \"text/html\"}")?
        else {
            return Ok(Self::new());
        };
        given
            .into_iter()
            .map(|(key, value)| match value {
                Value::String(value) => Ok((key, value)),
                other => Err(ValidationError::new(format!("{name}.{key}"), other, "a text")),
            })
            .collect()
    }
}

/// A field of type `$type` as a JSON object. Unknown keys are refused.
macro_rules! object_column {
    ($type:ty) => {
        impl ColumnValue for $type {
            fn bind_to<'q>(&'q self, query: SiteIdQuery<'q>) -> SiteIdQuery<'q> {
                query.bind(Json(self))
            }

            fn decode(row: &PgRow, name: &str) -> Result<Self, ValidationError> {
                let value: Value = decode_column(row, name, "an object")?;
                decode_object(name, &value)
            }
        }
    };
}

object_column!(HttpOptions);
object_column!(HttpAssertions);

pub(super) fn decode_column<'r, T: Decode<'r, Postgres> + Type<Postgres>>(
    row: &'r PgRow,
    name: &str,
    allowed: &str,
) -> Result<T, ValidationError> {
    row.try_get(name).map_err(|_| ValidationError::new(name, "(cannot be read)", allowed))
}

/// Saturates, so that an out-of-range number stays out of range. Callers validate numbers first.
pub(super) fn to_i32(number: i64) -> i32 {
    i32::try_from(number).unwrap_or(if number < 0 { i32::MIN } else { i32::MAX })
}
