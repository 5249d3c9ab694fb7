//! Conversion of entries into sorted, unique rows and dead letters, and of rows into columns.

use std::{borrow::Cow, collections::BTreeMap};

use picket_proto::{
    CheckKind, CheckResult, Outcome, SiteId, Timestamp, Warning, check::MAX_URL_BYTES,
    validation::sanitize_text,
};
use sqlx::{Postgres, postgres::PgArguments, query::QueryAs};

use super::types::{CountsByOutcome, IncomingResult, InsertSummary, RegionIds, ResultContent};
use crate::{
    DbTimestamp,
    decisions::NewResult,
    incident_rules::RegionResult,
    incidents::IncidentOutcome,
    warnings::{ReportedWarnings, WarningOutcome},
};

const MAX_MESSAGE_BYTES: usize = 500;
const MAX_PROBER_BYTES: usize = 100;
const MAX_REMOTE_ADDR_BYTES: usize = 64;
const MAX_HTTP_VERSION_BYTES: usize = 16;
/// Limit of an ad-hoc request's id, which is part of an index.
const MAX_REQUEST_ID_BYTES: usize = 200;
const MAX_SUBJECT_BYTES: usize = 200;
const MAX_REASON_BYTES: usize = 500;
/// Maximum size of a message in the stream.
const MAX_PAYLOAD_BYTES: usize = 64 << 10;

/// Rows of a batch.
pub(super) struct BatchRows<'a> {
    /// Sorted by key, so that two sinks writing the same rows cannot deadlock.
    pub(super) results: Vec<ResultRow<'a>>,
    pub(super) dead_letters: Vec<DeadLetterRow<'a>>,
    duplicates: u64,
    unknown_region: u64,
}

/// A result row to be stored.
pub(super) struct ResultRow<'a> {
    incoming: &'a IncomingResult<'a>,
    result: &'a CheckResult,
    /// Site and region id; absent for an ad-hoc check.
    site_and_region: Option<(SiteId, i16)>,
}

/// Key of a row of `check_results`.
type CheckKey = (Timestamp, SiteId, i16, CheckKind);
/// Due time, id, region and prober of an ad-hoc check, which identify it.
type AdhocKey<'a> = (Timestamp, &'a str, &'a str, &'a str);

/// Finds a row by its key; the rows are sorted, as in [`BatchRows`].
pub(super) fn find_check<'r, 'a>(rows: &'r [ResultRow<'a>], key: CheckKey) -> Option<&'r ResultRow<'a>> {
    let place = rows.binary_search_by_key(&Some(key), |row| row.sort_key().0).ok()?;
    rows.get(place)
}

/// A dead letter to be stored.
pub(super) struct DeadLetterRow<'a> {
    incoming: &'a IncomingResult<'a>,
    pub(super) reason: Cow<'a, str>,
}

impl<'a> BatchRows<'a> {
    pub(super) fn new(entries: &'a [IncomingResult<'a>], regions: &RegionIds) -> Self {
        let mut rows = Self {
            results: Vec::with_capacity(entries.len()),
            dead_letters: Vec::new(),
            duplicates: 0,
            unknown_region: 0,
        };
        for entry in entries {
            match entry.content {
                ResultContent::Check(result) => match (result.site_id, regions.get(&result.region)) {
                    (Some(site), Some(region)) => {
                        rows.results.push(ResultRow {
                            incoming: entry,
                            result,
                            site_and_region: Some((site, *region)),
                        });
                    }
                    (None, _) => rows
                        .dead_letters
                        .push(DeadLetterRow { incoming: entry, reason: "site_id: there is none".into() }),
                    (_, None) => {
                        rows.unknown_region += 1;
                        let reason = format!("region: there is no region '{}'", result.region);
                        rows.dead_letters.push(DeadLetterRow { incoming: entry, reason: reason.into() });
                    }
                },
                ResultContent::Adhoc(result) => {
                    rows.results.push(ResultRow { incoming: entry, result, site_and_region: None })
                }
                ResultContent::Rejected(reason) => {
                    rows.dead_letters.push(DeadLetterRow { incoming: entry, reason: reason.into() })
                }
            }
        }
        rows.sort_and_dedup();
        rows
    }

    /// Due times of checks, one for each day.
    pub(super) fn due_time_per_day(&self) -> Vec<DbTimestamp> {
        const DAY_MS: i64 = 86_400_000;
        let day = |row: &ResultRow<'_>| row.result.scheduled_at.as_millis().div_euclid(DAY_MS);
        let checks = self.results.iter().filter(|row| row.site_and_region.is_some());
        let by_day: BTreeMap<i64, Timestamp> =
            checks.map(|row| (day(row), row.result.scheduled_at)).collect();
        by_day.into_values().map(DbTimestamp).collect()
    }

    /// Keeps the better of two equal keys, since a single statement cannot write a row twice.
    fn sort_and_dedup(&mut self) {
        self.results.sort_by(|one, other| {
            // A real result sorts before a missed one and survives.
            let missed = |row: &ResultRow<'_>| row.result.outcome == Outcome::Missed;
            one.sort_key().cmp(&other.sort_key()).then_with(|| missed(one).cmp(&missed(other)))
        });
        let before = self.results.len();
        self.results.dedup_by(|later, earlier| later.sort_key() == earlier.sort_key());
        self.duplicates = (before - self.results.len()) as u64;
    }

    /// Summarizes the batch, given the new rows and the number of rejected rows.
    pub(super) fn summarize_insert(&self, new: CountsByOutcome, refused: usize) -> InsertSummary {
        let inserted: u64 = new.values().sum();
        let taken = (self.results.len() - refused) as u64;
        InsertSummary {
            new_rows: new,
            duplicates: self.duplicates + taken.saturating_sub(inserted),
            rejected: self.dead_letters.len() as u64 - self.unknown_region,
            unknown_region: self.unknown_region,
            refused_by_database: refused as u64,
            first_reason: self.dead_letters.first().map(|dead| dead.reason.to_string()),
            incidents: IncidentOutcome::default(),
            warnings: WarningOutcome::default(),
        }
    }
}

impl<'a> ResultRow<'a> {
    fn sort_key(&self) -> (Option<CheckKey>, Option<AdhocKey<'_>>) {
        let result = self.result;
        match self.site_and_region {
            Some((site, region)) => (Some((result.scheduled_at, site, region, result.kind)), None),
            None => (None, Some((result.scheduled_at, &result.id, result.region.as_str(), &result.prober))),
        }
    }

    /// Returns `None` for an ad-hoc check.
    pub(super) fn site_id(&self) -> Option<i64> {
        self.site_and_region.map(|(site, _)| site.0)
    }

    fn region_id(&self) -> Option<i16> {
        self.site_and_region.map(|(_, region)| region)
    }

    /// Returns true if this is a tick that was up, which alone says anything about warnings.
    fn is_up_tick(&self) -> bool {
        self.result.outcome == Outcome::Up && self.result.kind == CheckKind::Scheduled
    }

    /// Returns true if the result is up and warns; warnings of another outcome mean nothing.
    fn has_warnings(&self) -> bool {
        self.result.outcome == Outcome::Up && !self.result.warnings.is_empty()
    }

    /// Converts the row to evidence for decisions about incidents and about warnings; `None` for an
    /// ad-hoc check, or if it concerns neither.
    pub(super) fn to_new_result(
        &self,
        concerns_incidents: bool,
        concerns_warnings: bool,
    ) -> Option<NewResult> {
        let CheckResult { scheduled_at: at, kind, outcome, cause, .. } = *self.result;
        let (site, region) = self.site_and_region.filter(|_| concerns_incidents || concerns_warnings)?;
        let message = self.message().map(Cow::into_owned);
        Some(NewResult {
            site,
            result: RegionResult { region, scheduled_at: at, kind, outcome, cause, message },
            concerns_incidents,
            warnings: concerns_warnings.then(|| ReportedWarnings::of_result(self.result)),
        })
    }

    /// Each warning once, in the order of the database's type.
    fn warnings(&self) -> impl Iterator<Item = &'static str> {
        let of_result = |warning: &&Warning| self.result.warnings.contains(warning);
        Warning::ALL_VALUES.iter().filter(of_result).map(|warning| warning.as_str())
    }

    /// The literal of the array of warnings; `None` for none.
    fn warnings_literal(&self) -> Option<String> {
        self.has_warnings().then(|| format!("{{{}}}", self.warnings().collect::<Vec<_>>().join(",")))
    }

    fn details(&self) -> Option<String> {
        // An object with texts as keys can always be written.
        self.result.details.as_ref().and_then(|details| serde_json::to_string(details).ok())
    }

    fn body_bytes(&self) -> i32 {
        i32::try_from(self.result.body_bytes).unwrap_or(i32::MAX)
    }

    fn http_status(&self) -> Option<i16> {
        self.result.http_status.map(|status| i16::try_from(status).unwrap_or(i16::MAX))
    }

    fn http_version(&self) -> Option<Cow<'a, str>> {
        self.result.http_version.as_deref().map(|version| to_stored_text(version, MAX_HTTP_VERSION_BYTES))
    }

    fn remote_addr(&self) -> Option<Cow<'a, str>> {
        self.result.remote_addr.as_deref().map(|address| to_stored_text(address, MAX_REMOTE_ADDR_BYTES))
    }

    fn prober(&self) -> Cow<'a, str> {
        to_stored_text(&self.result.prober, MAX_PROBER_BYTES)
    }

    fn message(&self) -> Option<Cow<'a, str>> {
        self.result.message.as_deref().map(|message| to_stored_text(message, MAX_MESSAGE_BYTES))
    }

    pub(super) fn to_dead_letter(&self, reason: String) -> DeadLetterRow<'a> {
        DeadLetterRow { incoming: self.incoming, reason: reason.into() }
    }
}

type RowQuery<'q, Row> = QueryAs<'q, Postgres, Row, PgArguments>;

/// Binds the columns in the order of the statement's parameters.
pub(super) fn bind_rows<'q, Row>(
    query: RowQuery<'q, Row>,
    usable: &'q [ResultRow<'q>],
    dead: &'q [DeadLetterRow<'q>],
) -> RowQuery<'q, Row> {
    // Ad-hoc rows sort first, because their key has no site.
    let (adhoc, checks) = usable.split_at(usable.partition_point(|row| row.site_and_region.is_none()));
    let query = bind_checks(query, checks);
    let query = bind_details(query, checks);
    let query = bind_adhoc(query, adhoc);
    let query = bind_details(query, adhoc);
    query
        .bind(collect_column(dead, |row| to_stored_text(row.incoming.subject, MAX_SUBJECT_BYTES)))
        .bind(collect_column(dead, |row| to_stored_text(&row.reason, MAX_REASON_BYTES)))
        .bind(collect_column(dead, |row| {
            sanitize_text(&String::from_utf8_lossy(row.incoming.payload), MAX_PAYLOAD_BYTES)
        }))
        .bind(warned_sites(checks).collect::<Vec<_>>())
}

/// The sites of which a result warns.
fn warned_sites(rows: &[ResultRow<'_>]) -> impl Iterator<Item = i64> {
    let warned = rows.iter().filter(|row| row.has_warnings() && row.is_up_tick());
    warned.filter_map(ResultRow::site_id)
}

fn bind_checks<'q, Row>(query: RowQuery<'q, Row>, rows: &'q [ResultRow<'q>]) -> RowQuery<'q, Row> {
    query
        .bind(collect_column(rows, |row| DbTimestamp(row.result.scheduled_at)))
        .bind(collect_column(rows, ResultRow::site_id))
        .bind(collect_column(rows, ResultRow::region_id))
        .bind(collect_column(rows, |row| row.result.kind.as_str()))
        .bind(collect_column(rows, |row| lateness_us(row.result)))
}

fn bind_adhoc<'q, Row>(query: RowQuery<'q, Row>, rows: &'q [ResultRow<'q>]) -> RowQuery<'q, Row> {
    query
        .bind(collect_column(rows, |row| DbTimestamp(row.result.scheduled_at)))
        .bind(collect_column(rows, |row| row.result.started_at.map(DbTimestamp)))
        .bind(collect_column(rows, |row| to_stored_text(&row.result.id, MAX_REQUEST_ID_BYTES)))
        .bind(collect_column(rows, |row| row.result.region.as_str()))
        .bind(collect_column(rows, |row| to_stored_text(&row.result.url, MAX_URL_BYTES)))
}

/// Binds the columns shared by both tables.
fn bind_details<'q, Row>(query: RowQuery<'q, Row>, rows: &'q [ResultRow<'q>]) -> RowQuery<'q, Row> {
    query
        .bind(collect_column(rows, |row| row.result.tls_expires_at.map(DbTimestamp)))
        .bind(collect_column(rows, |row| row.result.outcome.as_str()))
        .bind(collect_column(rows, |row| row.result.cause.map(|cause| cause.as_str())))
        .bind(collect_column(rows, |row| micros_to_i32(row.result.timing.dns_us)))
        .bind(collect_column(rows, |row| micros_to_i32(row.result.timing.connect_us)))
        .bind(collect_column(rows, |row| micros_to_i32(row.result.timing.tls_us)))
        .bind(collect_column(rows, |row| micros_to_i32(row.result.timing.first_byte_us)))
        .bind(collect_column(rows, |row| micros_to_i32(row.result.timing.transfer_us)))
        .bind(collect_column(rows, |row| micros_to_i32(row.result.timing.total_us)))
        .bind(collect_column(rows, ResultRow::body_bytes))
        .bind(collect_column(rows, ResultRow::http_status))
        .bind(collect_column(rows, |row| i16::from(row.result.redirects)))
        .bind(collect_column(rows, |row| row.result.regex_matched))
        .bind(collect_column(rows, ResultRow::http_version))
        .bind(collect_column(rows, ResultRow::remote_addr))
        .bind(collect_column(rows, ResultRow::prober))
        .bind(collect_column(rows, ResultRow::message))
        .bind(collect_column(rows, ResultRow::warnings_literal))
        .bind(collect_column(rows, ResultRow::details))
}

fn collect_column<'q, Row, T>(rows: &'q [Row], value: impl Fn(&'q Row) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}

/// Sanitizes `text` for storage; borrows valid text.
fn to_stored_text(text: &str, max: usize) -> Cow<'_, str> {
    if text.len() <= max && !text.chars().any(char::is_control) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(sanitize_text(text, max))
    }
}

fn micros_to_i32(phase: Option<u32>) -> Option<i32> {
    phase.map(|micros| i32::try_from(micros).unwrap_or(i32::MAX))
}

/// Negative if the prober's clock is behind the coordinator's.
fn lateness_us(result: &CheckResult) -> Option<i32> {
    let late = result.started_at?.as_micros().saturating_sub(result.scheduled_at.as_micros());
    Some(i32::try_from(late).unwrap_or(if late < 0 { i32::MIN } else { i32::MAX }))
}
