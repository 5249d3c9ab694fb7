//! Bulk insert of new rows by `COPY`. Costs about half of `INSERT … ON CONFLICT`, but fails as a
//! whole if any row exists already.

use std::collections::HashSet;

use picket_proto::Outcome;
use sqlx::{PgConnection, postgres::types::Oid};

use super::{
    copy_row::BinaryCopyRow,
    rows::{self, ResultRow},
    types::CountsByOutcome,
};
use crate::decisions::NewResult;

/// Columns in the order of [`ResultRow::write_columns`].
const COPY_RESULTS_SQL: &str = "COPY picket.check_results (
    scheduled_at, site_id, region_id, kind, lateness_us, tls_expires_at, outcome, cause, dns_us, connect_us, tls_us,
    first_byte_us, transfer_us, total_us, body_bytes, http_status, redirects, regex_matched, http_version, remote_addr,
    prober, message, warnings, details) FROM STDIN (FORMAT binary)";
const COLUMN_COUNT: i16 = 24;

/// Signature, no flags, no extension. Source:
/// <https://www.postgresql.org/docs/current/sql-copy.html>
const COPY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const COPY_TRAILER: [u8; 2] = (-1_i16).to_be_bytes();
/// Size of one message. The server buffers a whole message and parses it afterwards, so that
/// messages of a few rows stay in the processor's cache on both sides.
const COPY_CHUNK_BYTES: usize = 32 << 10;
/// Upper estimate of a row's size with its length fields.
const TYPICAL_ROW_BYTES: usize = 1 << 10;

/// Copies all rows; counts them as new, and adds results that may affect incidents or warnings to
/// `fresh`, like `execute_insert`.
pub(super) async fn copy_rows(
    connection: &mut PgConnection,
    rows: &[ResultRow<'_>],
    fresh: &mut Vec<NewResult>,
) -> Result<CountsByOutcome, sqlx::Error> {
    let warning_type = match rows.iter().any(ResultRow::has_warnings) {
        true => load_warning_type(connection).await?,
        false => Oid(0),
    };
    let mut copying = connection.copy_in_raw(COPY_RESULTS_SQL).await?;
    let mut chunk = Vec::with_capacity(COPY_CHUNK_BYTES + TYPICAL_ROW_BYTES);
    chunk.extend_from_slice(COPY_HEADER);
    for row in rows {
        chunk.extend_from_slice(&COLUMN_COUNT.to_be_bytes());
        row.write_columns(&mut BinaryCopyRow(&mut chunk), warning_type);
        if chunk.len() >= COPY_CHUNK_BYTES {
            copying.send(chunk.as_slice()).await?;
            chunk.clear();
        }
    }
    chunk.extend_from_slice(&COPY_TRAILER);
    copying.send(chunk).await?;
    copying.finish().await?;

    // Selects all results of sites that fail or warn now, or did before, as insert.sql does.
    let mut known = load_sites_with_state(connection, rows).await?;
    let failing = rows.iter().filter(|row| row.outcome_and_cause().0 == Outcome::Down);
    known.failing.extend(failing.filter_map(ResultRow::site_id));
    known.warned.extend(rows::warned_sites(rows));
    let mut new = CountsByOutcome::new();
    for row in rows {
        *new.entry(row.outcome_and_cause()).or_default() += 1;
        let is_of = |sites: &HashSet<i64>| row.site_id().is_some_and(|site| sites.contains(&site));
        let concerns_incidents =
            row.outcome_and_cause().0 != Outcome::Missed && (row.is_confirmation() || is_of(&known.failing));
        let concerns_warnings = row.is_up_tick() && is_of(&known.warned);
        fresh.extend(row.to_new_result(concerns_incidents, concerns_warnings));
    }
    Ok(new)
}

/// Number of the type `picket.warning` in this database, which the binary form of an array names.
async fn load_warning_type(connection: &mut PgConnection) -> Result<Oid, sqlx::Error> {
    sqlx::query_scalar("SELECT 'picket.warning'::regtype::oid").fetch_one(connection).await
}

/// Sites with states of incidents or of warnings.
#[derive(Default)]
struct SitesWithState {
    failing: HashSet<i64>,
    warned: HashSet<i64>,
}

impl SitesWithState {
    fn from_rows(rows: Vec<(i64, bool)>) -> Self {
        let mut sites = Self::default();
        for (site, is_warning) in rows {
            let set = if is_warning { &mut sites.warned } else { &mut sites.failing };
            set.insert(site);
        }
        sites
    }
}

/// Sites with a state: all of them if few (the usual case), else only those among `rows`.
async fn load_sites_with_state(
    connection: &mut PgConnection,
    rows: &[ResultRow<'_>],
) -> Result<SitesWithState, sqlx::Error> {
    const MAX_LISTED_STATES: usize = 1_000;
    let states: Vec<(i64, bool)> = sqlx::query_as(
        "(SELECT site_id, false FROM picket.site_states LIMIT $1)
         UNION ALL
         (SELECT site_id, true FROM picket.warning_states LIMIT $1)",
    )
    .bind(MAX_LISTED_STATES as i64)
    .fetch_all(&mut *connection)
    .await?;
    let is_complete = |is_warning| {
        states.iter().filter(|(_, of_warning)| *of_warning == is_warning).count() < MAX_LISTED_STATES
    };
    if is_complete(false) && is_complete(true) {
        return Ok(SitesWithState::from_rows(states));
    }
    let sites: HashSet<i64> = rows.iter().filter_map(ResultRow::site_id).collect();
    let states = sqlx::query_as(
        "SELECT site_id, false FROM picket.site_states WHERE site_id = ANY ($1)
         UNION ALL
         SELECT site_id, true FROM picket.warning_states WHERE site_id = ANY ($1)",
    )
    .bind(sites.into_iter().collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    Ok(SitesWithState::from_rows(states))
}
