//! Decoding of rows of `picket.sites`, column by column. An undecodable value invalidates only its
//! own site.

use std::{collections::BTreeMap, sync::LazyLock};

use picket_proto::{
    CheckRequest, IpVersion, SiteId, ValidationError, check::MAX_URL_BYTES, pattern, site::SiteSpec,
};
use serde_json::Value;
use sqlx::{Decode, FromRow, Postgres, Row as _, Type, postgres::PgRow};

use super::Site;
use crate::{DbTimestamp, leases::to_shard};

/// Maximum sizes of texts in bytes. The database compares, so that longer texts are never sent.
const MAX_TEXT_BYTES: [(&str, usize); 8] = [
    ("url", MAX_URL_BYTES),
    ("name", SiteSpec::MAX_NAME_BYTES),
    ("body", CheckRequest::MAX_BODY_BYTES),
    ("regex", pattern::MAX_PATTERN_BYTES),
    ("not_regex", pattern::MAX_PATTERN_BYTES),
    ("method", 64),
    ("status", 1_024),
    ("ip_version", 64),
];

/// Maximum sizes of lists and headers, in bytes as stored by the database (possibly compressed).
const MAX_STORED_BYTES: [(&str, usize); 3] =
    [("headers", 32 << 10), ("regions", 32 << 10), ("tags", 16 << 10)];

/// Maximum size of the headers' text in bytes, enough for the longest allowed headers with every
/// character escaped in JSON.
const MAX_HEADERS_TEXT_BYTES: usize = 128 << 10;

/// Columns for decoding a [`Site`], for a statement that names the table `site`.
pub(crate) static SITE_COLUMNS: LazyLock<String> = LazyLock::new(|| {
    let mut columns = "site.id, site.shard, site.interval_seconds, site.timeout_ms, site.max_redirects, site.tls_verify, \
         site.enabled, site.quorum, site.failures_to_open, site.successes_to_close, site.created_at, site.updated_at, \
         site.patterns_validated, \
         left(site.problem, 2000) AS problem"
        .to_owned();
    let mut oversized = String::new();
    // Neither the length of a text nor the stored size of a value requires reading the value.
    let texts = MAX_TEXT_BYTES.map(|(name, limit)| (name, format!("octet_length(site.{name})"), limit));
    let values = MAX_STORED_BYTES.map(|(name, limit)| (name, format!("pg_column_size(site.{name})"), limit));
    for (name, size, limit) in texts.into_iter().chain(values) {
        // A truncated URL still identifies the site.
        let rest = if name == "url" { " ELSE left(site.url, 200)" } else { "" };
        let fits = match name {
            // A small value cannot be compressed much.
            "headers" => format!(
                "({size} <= 1000 OR {size} <= {limit} AND octet_length(site.headers::text) <= {MAX_HEADERS_TEXT_BYTES})"
            ),
            _ => format!("{size} <= {limit}"),
        };
        columns += &format!(", CASE WHEN {fits} THEN site.{name}{rest} END AS {name}");
        oversized += &format!(" WHEN NOT {fits} THEN '{name} ' || {size}");
    }
    format!("{columns}, CASE{oversized} END AS oversized")
});

impl FromRow<'_, PgRow> for Site {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: SiteId(row.try_get("id")?),
            shard: to_shard(row.try_get("shard")?),
            spec: decode_spec(row),
            // A text may be invalid UTF-8 in a database with another encoding.
            url: row.try_get("url").unwrap_or_default(),
            problem: row.try_get("problem").unwrap_or_else(|_| Some("(cannot be read)".to_owned())),
            patterns_validated: row.try_get("patterns_validated")?,
            created_at: row.try_get::<DbTimestamp, _>("created_at")?.into(),
            updated_at: row.try_get::<DbTimestamp, _>("updated_at")?.into(),
        })
    }
}

fn decode_spec(row: &PgRow) -> Result<SiteSpec, ValidationError> {
    // The statement replaces oversized values and names the column instead.
    if let Some(oversized) = decode_column::<Option<String>>(row, "oversized", "a text")? {
        return Err(oversized_error(&oversized));
    }
    let number = |name| decode_column::<i32>(row, name, "a number").map(i64::from);
    let text = |name| decode_column::<String>(row, name, "a text");
    let maybe = |name| decode_column::<Option<String>>(row, name, "a text");
    let list = |name| {
        decode_column::<Vec<String>>(
            row,
            name,
            "a list of one dimension that is counted from 1, without NULL",
        )
    };
    let check = CheckRequest {
        method: text("method")?,
        headers: decode_headers(row)?,
        body: maybe("body")?,
        timeout_ms: number("timeout_ms")?,
        status: text("status")?,
        regex: maybe("regex")?,
        not_regex: maybe("not_regex")?,
        max_redirects: number("max_redirects")?,
        ip_version: IpVersion::parse(&text("ip_version")?)?,
        tls_verify: decode_column(row, "tls_verify", "true or false")?,
        ..CheckRequest::new(text("url")?)
    };
    Ok(SiteSpec {
        check,
        name: maybe("name")?,
        interval_seconds: number("interval_seconds")?,
        regions: list("regions")?,
        enabled: decode_column(row, "enabled", "true or false")?,
        quorum: decode_column::<Option<i32>>(row, "quorum", "a number")?.map(i64::from),
        failures_to_open: number("failures_to_open")?,
        successes_to_close: number("successes_to_close")?,
        tags: list("tags")?,
    })
}

fn decode_column<'r, T: Decode<'r, Postgres> + Type<Postgres>>(
    row: &'r PgRow,
    name: &str,
    allowed: &str,
) -> Result<T, ValidationError> {
    row.try_get(name).map_err(|_| ValidationError::new(name, "(cannot be read)", allowed))
}

/// Converts `oversized`, a column name and the size of its value.
fn oversized_error(oversized: &str) -> ValidationError {
    let (name, size) = oversized.split_once(' ').unwrap_or((oversized, "too many"));
    let limit = MAX_TEXT_BYTES.iter().find(|(limited, _)| *limited == name);
    let allowed = match (name, limit) {
        ("headers", _) => format!("at most {} bytes together", CheckRequest::MAX_HEADER_BYTES),
        (_, Some((_, limit))) => format!("at most {limit} bytes"),
        ("tags", None) => "at most 50 of at most 64 bytes each".to_owned(),
        (_, None) => "names of regions that 'picket region list' shows".to_owned(),
    };
    ValidationError::new(name, format_args!("{size} bytes"), allowed)
}

fn decode_headers(row: &PgRow) -> Result<BTreeMap<String, String>, ValidationError> {
    // Decoding fails here for nesting and numbers beyond serde_json's limits, and nowhere else.
    let Value::Object(given) =
        decode_column(row, "headers", "an object of texts, such as {\"Accept\": \"text/html\"}")?
    else {
        return Ok(BTreeMap::new());
    };
    given
        .into_iter()
        .map(|(name, value)| match value {
            Value::String(value) => Ok((name, value)),
            other => Err(ValidationError::new(format!("headers.{name}"), other, "a text")),
        })
        .collect()
}
