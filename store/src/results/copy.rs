//! Many rows at once, none of which is there yet: `COPY`, which takes about half of what `INSERT … ON CONFLICT` does and
//! refuses them all if one is there.

use std::collections::HashSet;

use picket_proto::{Outcome, Timestamp};
use sqlx::PgConnection;

use super::{CountsByOutcome, NewResult, rows::ResultRow};
use crate::DbTimestamp;

/// In the order in which [`Usable::columns`] tells them.
const COPY_RESULTS_SQL: &str = "COPY picket.check_results (
    scheduled_at, site_id, region_id, kind, lateness_us, tls_expires_at, outcome, cause, dns_us, connect_us, tls_us,
    first_byte_us, transfer_us, total_us, body_bytes, http_status, redirects, regex_matched, http_version, remote_addr,
    prober, message) FROM STDIN (FORMAT binary)";
const COLUMN_COUNT: i16 = 22;

/// Signature, no flags, nothing more. Source: <https://www.postgresql.org/docs/current/sql-copy.html>
const COPY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const COPY_TRAILER: [u8; 2] = (-1_i16).to_be_bytes();
/// What goes in one message. The server has room made for a message as a whole, and reads it again piece by piece: those of a
/// few rows stay in the processor's cache on both sides.
const COPY_CHUNK_BYTES: usize = 32 << 10;
/// More than most rows take with their lengths.
const TYPICAL_ROW_BYTES: usize = 1 << 10;

/// As `insert` does: says which rows are new, which is all, and puts those that may make a difference into `fresh`.
pub(super) async fn copy_rows(
    connection: &mut PgConnection,
    rows: &[ResultRow<'_>],
    fresh: &mut Vec<NewResult>,
) -> Result<CountsByOutcome, sqlx::Error> {
    let mut copying = connection.copy_in_raw(COPY_RESULTS_SQL).await?;
    let mut piece = Vec::with_capacity(COPY_CHUNK_BYTES + TYPICAL_ROW_BYTES);
    piece.extend_from_slice(COPY_HEADER);
    for row in rows {
        piece.extend_from_slice(&COLUMN_COUNT.to_be_bytes());
        row.write_columns(&mut BinaryCopyRow(&mut piece));
        if piece.len() >= COPY_CHUNK_BYTES {
            copying.send(piece.as_slice()).await?;
            piece.clear();
        }
    }
    piece.extend_from_slice(&COPY_TRAILER);
    copying.send(piece).await?;
    copying.finish().await?;

    // All that is said of sites that fail now, or did not seem plainly up before, as in insert.sql.
    let known = load_sites_with_state(connection, rows).await?;
    let failing =
        rows.iter().filter(|row| row.outcome_and_cause().0 == Outcome::Down).filter_map(ResultRow::site_id);
    let told: HashSet<i64> = known.into_iter().chain(failing).collect();
    let mut new = CountsByOutcome::new();
    for row in rows {
        *new.entry(row.outcome_and_cause()).or_default() += 1;
        let matters = row.is_confirmation() || row.site_id().is_some_and(|site| told.contains(&site));
        if matters && row.outcome_and_cause().0 != Outcome::Missed {
            fresh.extend(row.to_new_result());
        }
    }
    Ok(new)
}

/// The sites that did not seem plainly up, or those of them of which these rows are: mostly there are few.
async fn load_sites_with_state(
    connection: &mut PgConnection,
    rows: &[ResultRow<'_>],
) -> Result<Vec<i64>, sqlx::Error> {
    const FEW: usize = 1_000;
    let few = sqlx::query_scalar("SELECT site_id FROM picket.site_states LIMIT $1")
        .bind(FEW as i64)
        .fetch_all(&mut *connection)
        .await?;
    if few.len() < FEW {
        return Ok(few);
    }
    let sites: HashSet<i64> = rows.iter().filter_map(ResultRow::site_id).collect();
    sqlx::query_scalar("SELECT site_id FROM picket.site_states WHERE site_id = ANY ($1)")
        .bind(sites.into_iter().collect::<Vec<_>>())
        .fetch_all(connection)
        .await
}

/// A row in the binary format: each column with its length before it.
pub(super) struct BinaryCopyRow<'a>(&'a mut Vec<u8>);

impl BinaryCopyRow<'_> {
    pub(super) fn write_i16(&mut self, value: Option<i16>) {
        self.write_column(value.map(i16::to_be_bytes));
    }

    pub(super) fn write_i32(&mut self, value: Option<i32>) {
        self.write_column(value.map(i32::to_be_bytes));
    }

    pub(super) fn write_i64(&mut self, value: Option<i64>) {
        self.write_column(value.map(i64::to_be_bytes));
    }

    pub(super) fn write_bool(&mut self, value: Option<bool>) {
        self.write_column(value.map(|value| [u8::from(value)]));
    }

    pub(super) fn write_timestamp(&mut self, value: Option<Timestamp>) {
        self.write_i64(value.map(|at| DbTimestamp(at).to_wire()));
    }

    /// A text, or the word of an enumeration.
    pub(super) fn write_text(&mut self, value: Option<impl AsRef<str>>) {
        match value {
            Some(text) => self.write_bytes(text.as_ref().as_bytes()),
            None => self.write_column::<0>(None),
        }
    }

    fn write_column<const N: usize>(&mut self, value: Option<[u8; N]>) {
        match value {
            Some(bytes) => self.write_bytes(&bytes),
            None => self.0.extend_from_slice(&(-1_i32).to_be_bytes()),
        }
    }

    fn write_bytes(&mut self, bytes: &[u8]) {
        // Texts were cut to their lengths.
        let length = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(bytes);
    }
}
