//! Decoding of rows of `picket.sites`, column by column. An undecodable value invalidates only its
//! own site.

use std::sync::LazyLock;

use picket_proto::{CheckRequest, SiteId, ValidationError, site::SiteSpec};
use sqlx::{FromRow, Row as _, postgres::PgRow};

use super::{
    Site,
    columns::{self, DEFINITION_COLUMNS, SizeLimit},
};
use crate::{DbTimestamp, leases::to_shard};

/// Columns for decoding a [`Site`], for a statement that names the table `site`.
pub(crate) static SITE_COLUMNS: LazyLock<String> = LazyLock::new(|| {
    let mut columns = "site.id, site.shard, site.created_at, site.updated_at, site.patterns_validated, \
         left(site.problem, 2000) AS problem"
        .to_owned();
    let mut oversized = String::new();
    for column in DEFINITION_COLUMNS {
        let name = column.name;
        // Neither the length of a text nor the stored size of a value requires reading the value.
        let (size, fits) = match column.limit {
            SizeLimit::None => {
                columns += &format!(", site.{name}");
                continue;
            }
            SizeLimit::Text(limit) => {
                let size = format!("octet_length(site.{name})");
                (size.clone(), format!("{size} <= {limit}"))
            }
            SizeLimit::Stored(limit) => {
                let size = format!("pg_column_size(site.{name})");
                (size.clone(), format!("{size} <= {limit}"))
            }
            SizeLimit::Json { stored, text } => {
                let size = format!("pg_column_size(site.{name})");
                // A small value cannot be compressed much.
                let fits = format!(
                    "({size} <= 1000 OR {size} <= {stored} AND octet_length(site.{name}::text) <= {text})"
                );
                (size, fits)
            }
        };
        // A truncated URL still identifies the site.
        let rest = if name == "url" { " ELSE left(site.url, 200)" } else { "" };
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
    if let Some(oversized) = columns::decode_column::<Option<String>>(row, "oversized", "a text")? {
        return Err(oversized_error(&oversized));
    }
    columns::decode_definition(row)
}

/// Converts `oversized`, a column name and the size of its value.
fn oversized_error(oversized: &str) -> ValidationError {
    let (name, size) = oversized.split_once(' ').unwrap_or((oversized, "too many"));
    let column = DEFINITION_COLUMNS.iter().find(|column| column.name == name);
    let allowed = match (name, column.map(|column| column.limit)) {
        (_, Some(SizeLimit::Text(limit))) => format!("at most {limit} bytes"),
        ("headers", _) => format!("at most {} bytes together", CheckRequest::MAX_HEADER_BYTES),
        ("options" | "assertions", _) => format!("at most {} bytes", CheckRequest::MAX_OBJECT_BYTES),
        ("tags", _) => "at most 50 of at most 64 bytes each".to_owned(),
        _ => "names of regions that 'picket region list' shows".to_owned(),
    };
    ValidationError::new(name, format_args!("{size} bytes"), allowed)
}
