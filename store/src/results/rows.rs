//! Entries as the rows that they become, sorted, each once; and rows as the columns that are sent.

use std::{borrow::Cow, collections::BTreeMap};

use picket_proto::{Cause, CheckResult, Kind, Outcome, SiteId, Timestamp, check::MAX_URL, invalid::shorten};
use sqlx::{Postgres, postgres::PgArguments, query::QueryAs};

use super::{Content, Decided, Entry, Evidence, Fresh, New, RegionIds, Written, copy::Tuple};
use crate::DbTimestamp;

const MAX_MESSAGE: usize = 500;
const MAX_PROBER: usize = 100;
const MAX_REMOTE_ADDR: usize = 64;
const MAX_HTTP_VERSION: usize = 16;
/// Of an ad-hoc request's own id, which is in an index.
const MAX_ID: usize = 200;
const MAX_SUBJECT: usize = 200;
const MAX_REASON: usize = 500;
/// The largest message that the stream takes.
const MAX_PAYLOAD: usize = 64 << 10;

/// What is sent of a batch.
pub(super) struct Rows<'a> {
    /// Sorted by key, so that two sinks that write the same do not wait for each other in a circle.
    pub(super) usable: Vec<Usable<'a>>,
    pub(super) dead: Vec<Dead<'a>>,
    duplicates: u64,
    of_unknown_regions: u64,
}

/// A row that the database should take.
pub(super) struct Usable<'a> {
    entry: &'a Entry<'a>,
    result: &'a CheckResult,
    /// The site and the region's id; absent for an ad-hoc check.
    of: Option<(SiteId, i16)>,
}

/// A row of the dead letters.
pub(super) struct Dead<'a> {
    entry: &'a Entry<'a>,
    pub(super) reason: Cow<'a, str>,
}

impl<'a> Rows<'a> {
    pub(super) fn new(entries: &'a [Entry<'a>], regions: &RegionIds) -> Self {
        let mut rows = Self {
            usable: Vec::with_capacity(entries.len()),
            dead: Vec::new(),
            duplicates: 0,
            of_unknown_regions: 0,
        };
        for entry in entries {
            match entry.content {
                Content::Check(result) => match (result.site_id, regions.get(&result.region)) {
                    (Some(site), Some(region)) => {
                        rows.usable.push(Usable { entry, result, of: Some((site, *region)) });
                    }
                    (None, _) => rows.dead.push(Dead { entry, reason: "site_id: there is none".into() }),
                    (_, None) => {
                        rows.of_unknown_regions += 1;
                        let reason = format!("region: there is no region '{}'", result.region);
                        rows.dead.push(Dead { entry, reason: reason.into() });
                    }
                },
                Content::Adhoc(result) => rows.usable.push(Usable { entry, result, of: None }),
                Content::Unusable(reason) => rows.dead.push(Dead { entry, reason: reason.into() }),
            }
        }
        rows.sort();
        rows
    }

    /// Whether these are rows of scheduled and confirming checks and nothing else.
    pub(super) fn are_checks(&self) -> bool {
        self.dead.is_empty() && self.usable.iter().all(|row| row.of.is_some())
    }

    /// When the checks among these rows were due, each day's at least once.
    pub(super) fn moments(&self) -> Vec<DbTimestamp> {
        const DAY_MS: i64 = 86_400_000;
        let day = |row: &Usable<'_>| row.result.scheduled_at.millis().div_euclid(DAY_MS);
        let checks = self.usable.iter().filter(|row| row.of.is_some());
        let by_day: BTreeMap<i64, Timestamp> =
            checks.map(|row| (day(row), row.result.scheduled_at)).collect();
        by_day.into_values().map(DbTimestamp).collect()
    }

    /// One statement cannot write a row twice, so the better of two stays.
    fn sort(&mut self) {
        self.usable.sort_by(|one, other| {
            let missed = |row: &Usable<'_>| row.result.outcome == Outcome::Missed;
            one.key().cmp(&other.key()).then_with(|| missed(one).cmp(&missed(other)))
        });
        let before = self.usable.len();
        self.usable.dedup_by(|later, earlier| later.key() == earlier.key());
        self.duplicates = (before - self.usable.len()) as u64;
    }

    /// What became of these rows, given what is new and how many were refused.
    pub(super) fn written(&self, new: New, refused: usize) -> Written {
        let inserted: u64 = new.values().sum();
        let taken = (self.usable.len() - refused) as u64;
        Written {
            new,
            duplicates: self.duplicates + taken.saturating_sub(inserted),
            unusable: self.dead.len() as u64 - self.of_unknown_regions,
            of_unknown_regions: self.of_unknown_regions,
            refused: refused as u64,
            reason: self.dead.first().map(|dead| dead.reason.to_string()),
            decided: Decided::default(),
        }
    }
}

impl<'a> Usable<'a> {
    #[expect(clippy::type_complexity, reason = "compared, and never named")]
    fn key(&self) -> (Option<(Timestamp, SiteId, i16, Kind)>, Option<(Timestamp, &str, &str, &str)>) {
        let result = self.result;
        match self.of {
            Some((site, region)) => (Some((result.scheduled_at, site, region, result.kind)), None),
            None => (None, Some((result.scheduled_at, &result.id, result.region.as_str(), &result.prober))),
        }
    }

    /// Of an ad-hoc check there is none.
    pub(super) fn site(&self) -> Option<i64> {
        self.of.map(|(site, _)| site.0)
    }

    fn region(&self) -> Option<i16> {
        self.of.map(|(_, region)| region)
    }

    pub(super) fn says(&self) -> (Outcome, Option<Cause>) {
        (self.result.outcome, self.result.cause)
    }

    pub(super) fn confirms(&self) -> bool {
        self.result.kind == Kind::Confirm
    }

    /// It as evidence of how its site is.
    pub(super) fn fresh(&self) -> Option<Fresh> {
        let CheckResult { scheduled_at: at, kind, outcome, cause, .. } = *self.result;
        let message = self.message().map(Cow::into_owned);
        self.of.map(|(site, region)| Fresh {
            site,
            says: Evidence { region, at, kind, outcome, cause, message },
        })
    }

    /// Its columns of `check_results`.
    pub(super) fn columns(&self, tuple: &mut Tuple<'_>) {
        let CheckResult { timing, .. } = self.result;
        tuple.moment(Some(self.result.scheduled_at));
        tuple.i64(self.site());
        tuple.i16(self.region());
        tuple.text(Some(self.result.kind.as_str()));
        tuple.i32(lateness_us(self.result));
        tuple.moment(self.result.tls_expires_at);
        tuple.text(Some(self.result.outcome.as_str()));
        tuple.text(self.result.cause.map(|cause| cause.as_str()));
        let phases = [timing.dns_us, timing.connect_us, timing.tls_us, timing.first_byte_us];
        for phase in phases.into_iter().chain([timing.transfer_us, timing.total_us]) {
            tuple.i32(micros(phase));
        }
        tuple.i32(Some(self.body_bytes()));
        tuple.i16(self.http_status());
        tuple.i16(Some(self.result.redirects.into()));
        tuple.bool(self.result.regex_matched);
        tuple.text(self.http_version());
        tuple.text(self.remote_addr());
        tuple.text(Some(self.prober()));
        tuple.text(self.message());
    }

    fn body_bytes(&self) -> i32 {
        i32::try_from(self.result.body_bytes).unwrap_or(i32::MAX)
    }

    fn http_status(&self) -> Option<i16> {
        self.result.http_status.map(|status| i16::try_from(status).unwrap_or(i16::MAX))
    }

    fn http_version(&self) -> Option<Cow<'a, str>> {
        self.result.http_version.as_deref().map(|version| text(version, MAX_HTTP_VERSION))
    }

    fn remote_addr(&self) -> Option<Cow<'a, str>> {
        self.result.remote_addr.as_deref().map(|address| text(address, MAX_REMOTE_ADDR))
    }

    fn prober(&self) -> Cow<'a, str> {
        text(&self.result.prober, MAX_PROBER)
    }

    fn message(&self) -> Option<Cow<'a, str>> {
        self.result.message.as_deref().map(|message| text(message, MAX_MESSAGE))
    }

    pub(super) fn refused(&self, reason: String) -> Dead<'a> {
        Dead { entry: self.entry, reason: reason.into() }
    }
}

type Query<'q, Row> = QueryAs<'q, Postgres, Row, PgArguments>;

/// Binds the columns in the order of the statement's parameters.
pub(super) fn bind<'q, Row>(
    query: Query<'q, Row>,
    usable: &'q [Usable<'q>],
    dead: &'q [Dead<'q>],
) -> Query<'q, Row> {
    // Ad-hoc rows stand before the others, since their key has no site.
    let (adhoc, checks) = usable.split_at(usable.partition_point(|row| row.of.is_none()));
    let query = bind_checks(query, checks);
    let query = bind_details(query, checks);
    let query = bind_adhoc(query, adhoc);
    let query = bind_details(query, adhoc);
    query
        .bind(column(dead, |row| text(row.entry.subject, MAX_SUBJECT)))
        .bind(column(dead, |row| text(&row.reason, MAX_REASON)))
        .bind(column(dead, |row| shorten(&String::from_utf8_lossy(row.entry.payload), MAX_PAYLOAD)))
}

fn bind_checks<'q, Row>(query: Query<'q, Row>, rows: &'q [Usable<'q>]) -> Query<'q, Row> {
    query
        .bind(column(rows, |row| DbTimestamp(row.result.scheduled_at)))
        .bind(column(rows, Usable::site))
        .bind(column(rows, Usable::region))
        .bind(column(rows, |row| row.result.kind.as_str()))
        .bind(column(rows, |row| lateness_us(row.result)))
}

fn bind_adhoc<'q, Row>(query: Query<'q, Row>, rows: &'q [Usable<'q>]) -> Query<'q, Row> {
    query
        .bind(column(rows, |row| DbTimestamp(row.result.scheduled_at)))
        .bind(column(rows, |row| row.result.started_at.map(DbTimestamp)))
        .bind(column(rows, |row| text(&row.result.id, MAX_ID)))
        .bind(column(rows, |row| row.result.region.as_str()))
        .bind(column(rows, |row| text(&row.result.url, MAX_URL)))
}

/// The columns that both tables have.
fn bind_details<'q, Row>(query: Query<'q, Row>, rows: &'q [Usable<'q>]) -> Query<'q, Row> {
    query
        .bind(column(rows, |row| row.result.tls_expires_at.map(DbTimestamp)))
        .bind(column(rows, |row| row.result.outcome.as_str()))
        .bind(column(rows, |row| row.result.cause.map(|cause| cause.as_str())))
        .bind(column(rows, |row| micros(row.result.timing.dns_us)))
        .bind(column(rows, |row| micros(row.result.timing.connect_us)))
        .bind(column(rows, |row| micros(row.result.timing.tls_us)))
        .bind(column(rows, |row| micros(row.result.timing.first_byte_us)))
        .bind(column(rows, |row| micros(row.result.timing.transfer_us)))
        .bind(column(rows, |row| micros(row.result.timing.total_us)))
        .bind(column(rows, Usable::body_bytes))
        .bind(column(rows, Usable::http_status))
        .bind(column(rows, |row| i16::from(row.result.redirects)))
        .bind(column(rows, |row| row.result.regex_matched))
        .bind(column(rows, Usable::http_version))
        .bind(column(rows, Usable::remote_addr))
        .bind(column(rows, Usable::prober))
        .bind(column(rows, Usable::message))
}

fn column<'q, Row, T>(rows: &'q [Row], value: impl Fn(&'q Row) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}

/// `text` as it may be stored and shown; borrowed where there is nothing to mend.
fn text(text: &str, max: usize) -> Cow<'_, str> {
    if text.len() <= max && !text.chars().any(char::is_control) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(shorten(text, max))
    }
}

fn micros(phase: Option<u32>) -> Option<i32> {
    phase.map(|micros| i32::try_from(micros).unwrap_or(i32::MAX))
}

/// Below zero where the prober's clock is behind the coordinator's.
fn lateness_us(result: &CheckResult) -> Option<i32> {
    let late = result.started_at?.micros().saturating_sub(result.scheduled_at.micros());
    Some(i32::try_from(late).unwrap_or(if late < 0 { i32::MIN } else { i32::MAX }))
}
