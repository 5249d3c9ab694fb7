//! Messages and subjects for tests and benches that publish jobs and results by hand.

use std::time::Duration;

use picket_proto::{
    CheckKind, CheckResult, MESSAGE_VERSION, Outcome, RegionName, ScheduledTick, SiteId, Tickets, Timestamp,
    Timing, job,
    subject::JobSubject,
    ticket::{TicketClaims, TicketKey},
};
use sqlx::PgPool;

/// Subject of a site's scheduled jobs.
pub fn scheduled_job_subject(region: &RegionName, site: SiteId) -> String {
    JobSubject::Scheduled(region.as_str(), site).to_string()
}

/// Subject of a site's confirming jobs.
pub fn confirmation_job_subject(region: &RegionName, site: SiteId) -> String {
    JobSubject::Confirmation(region.as_str(), site).to_string()
}

/// Builds the result of a plain successful check of `site`, scheduled for `at`, without a shard and
/// without a ticket.
pub fn up_result(site: SiteId, region: &RegionName, at: Timestamp) -> CheckResult {
    CheckResult {
        v: MESSAGE_VERSION,
        id: format!("{site}.{region}.{}", at.as_millis()),
        site_id: Some(site),
        kind: CheckKind::Scheduled,
        region: region.clone(),
        shard: None,
        prober: "prober-1".to_owned(),
        url: format!("http://127.0.0.1:20000/page/{site}"),
        scheduled_at: at,
        expires_at: None,
        started_at: Some(at.saturating_add(Duration::from_millis(7))),
        outcome: Outcome::Up,
        cause: None,
        message: None,
        http_status: Some(200),
        http_version: Some("1.1".to_owned()),
        remote_addr: Some("127.0.0.1:20000".to_owned()),
        timing: Timing::default(),
        redirects: 0,
        body_bytes: 1_024,
        regex_matched: None,
        tls_expires_at: None,
        warnings: Vec::new(),
        details: None,
        requires: Vec::new(),
        installation: None,
        ticket: None,
    }
}

/// Returns `result` with the ticket of a check requested from its region. Without `expires_at`, the
/// check gets the longest lifetime allowed.
pub fn with_ticket(mut result: CheckResult, tickets: &Tickets) -> CheckResult {
    let expires_at = *result.expires_at.get_or_insert(result.scheduled_at.saturating_add(job::MAX_JOB_TTL));
    if let (Some(site), Some(shard), true) = (result.site_id, result.shard, result.kind != CheckKind::Adhoc) {
        let CheckResult { ref region, kind, scheduled_at, .. } = result;
        let tick = ScheduledTick { site, shard, kind, scheduled_at, expires_at };
        let ticket = tickets.issue_ticket(&TicketClaims { tick, region });
        result.ticket = ticket.map(|ticket| ticket.to_string());
        result.installation = Some(tickets.installation());
    }
    result
}

/// Loads the ticket keys of the installation in this database, as coordinators do.
///
/// # Errors
/// Fails if the database does not answer.
pub async fn load_tickets(database: &PgPool) -> Result<Tickets, sqlx::Error> {
    let keys: Vec<(String, i16, Vec<u8>)> = sqlx::query_as(
        "SELECT installation_id::text, key_id, key FROM picket.settings CROSS JOIN picket.ticket_keys",
    )
    .fetch_all(database)
    .await?;
    let installation = keys[0].0.parse().expect("an installation id is a UUID");
    let key = |(_, id, secret)| TicketKey { id, secret, retired_at: None, is_usable: true };
    Ok(Tickets::new(installation, true, &keys.into_iter().map(key).collect::<Vec<_>>()))
}
