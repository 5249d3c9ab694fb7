//! Results with real tickets, for tests that publish results by hand.

use picket_proto::{CheckResult, Kind, ScheduledTick, Tickets, job, ticket::TicketClaims};

/// Returns `result` with the ticket of a check requested from its region. Without `expires_at`, the
/// check gets the longest lifetime allowed.
pub fn with_ticket(mut result: CheckResult, tickets: &Tickets) -> CheckResult {
    let expires_at = *result.expires_at.get_or_insert(result.scheduled_at.saturating_add(job::MAX_JOB_TTL));
    if let (Some(site), Some(shard), true) = (result.site_id, result.shard, result.kind != Kind::Adhoc) {
        let CheckResult { ref region, kind, scheduled_at, .. } = result;
        let tick = ScheduledTick { site, shard, kind, scheduled_at, expires_at };
        let ticket = tickets.issue_ticket(&TicketClaims { tick, region });
        result.ticket = ticket.map(|ticket| ticket.to_string());
        result.installation = Some(tickets.installation());
    }
    result
}
