//! The message of a job, rendered from a template of its site, which is encoded once, and from its
//! tick.

use std::{fmt::Write as _, time::Duration};

use crate::{CheckRequest, Epoch, MESSAGE_VERSION, ScheduledTick, Tickets, ticket::TicketClaims};

/// The part of a job that depends on the site alone: the JSON fields of the check, without braces.
///
/// A coordinator holds a template for each of up to a million sites, so a template is one
/// allocation of the exact size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobTemplate(Box<str>);

/// Maximum time to live of a job after its tick.
pub const MAX_JOB_TTL: Duration = Duration::from_secs(60);

/// Time to live of a job after its tick: until the next tick, at most [`MAX_JOB_TTL`].
pub fn job_ttl(interval: Duration) -> Duration {
    interval.min(MAX_JOB_TTL)
}

impl JobTemplate {
    /// Encodes the fields of the check; the fields of a tick are left out.
    pub fn new(request: &CheckRequest) -> Self {
        let check = CheckRequest {
            v: MESSAGE_VERSION,
            id: None,
            site_id: None,
            kind: None,
            scheduled_at: None,
            expires_at: None,
            shard: None,
            epoch: None,
            installation: None,
            ticket: None,
            ..request.clone()
        };
        // Absent and default fields are not encoded. Without braces, the tick's fields can be put
        // first.
        let json = serde_json::to_string(&check).unwrap_or_default();
        Self(json.trim_start_matches('{').strip_suffix('}').unwrap_or_default().into())
    }

    /// Appends the job of the tick in `claims`, with its ticket, to `out`. `id` must be the
    /// [`job_id`](crate::ScheduledTick::job_id) of the tick; `epoch` is that of the lease under which
    /// the job is published.
    pub fn render_job(
        &self,
        claims: &TicketClaims<'_>,
        epoch: Epoch,
        id: &str,
        tickets: &Tickets,
        out: &mut String,
    ) {
        let ScheduledTick { site, shard, kind, scheduled_at, expires_at } = claims.tick;
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            r#"{{"v":{MESSAGE_VERSION},"id":"{id}","site_id":{site},"kind":"{kind}","scheduled_at":"{scheduled_at}","expires_at":"{expires_at}","shard":{shard},"epoch":{epoch},"#
        );
        tickets.render_fields(claims, out);
        out.push_str(&self.0);
        out.push('}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CheckKind, RegionName, Shard, SiteId, Timestamp, ticket::TicketKey};

    #[test]
    fn a_rendered_job_reads_back_as_the_site_with_its_tick() {
        let site = CheckRequest {
            regex: Some("\"ok\\s\"".into()),
            headers: [("A".to_owned(), "{}".to_owned())].into(),
            ..CheckRequest::new("https://example.com/{}")
        };
        let region: RegionName = "eu".parse().unwrap();
        let tick = ScheduledTick {
            site: SiteId(42),
            shard: Shard(7),
            kind: CheckKind::Scheduled,
            scheduled_at: Timestamp::from_millis(1_795_176_000_000),
            expires_at: Timestamp::from_millis(1_795_176_060_000),
        };
        let claims = TicketClaims { tick, region: &region };

        let key = TicketKey { id: 1, secret: vec![7; 32], retired_at: None, is_usable: true };
        let tickets = Tickets::new(uuid::Uuid::from_u128(1).into(), true, &[key]);
        let mut json = String::new();
        JobTemplate::new(&site).render_job(&claims, Epoch(3), &tick.job_id(&region), &tickets, &mut json);
        let read = CheckRequest::decode(json.as_bytes()).unwrap();

        let expected = CheckRequest {
            id: Some("42.eu.1795176000000".into()),
            site_id: Some(tick.site),
            kind: Some(tick.kind),
            scheduled_at: Some(tick.scheduled_at),
            expires_at: Some(tick.expires_at),
            shard: Some(tick.shard),
            epoch: Some(Epoch(3)),
            installation: Some(tickets.installation()),
            ticket: tickets.issue_ticket(&claims).map(|ticket| ticket.to_string()),
            ..site
        };
        assert!(read.ticket.is_some());
        assert_eq!(read, expected);
    }

    #[test]
    fn a_site_with_defaults_renders_as_its_url_alone() {
        assert_eq!(JobTemplate::new(&CheckRequest::new("http://x/")).0.as_ref(), r#""url":"http://x/""#);
    }

    #[test]
    fn a_job_lives_until_the_next_tick_and_a_minute_at_most() {
        assert_eq!(job_ttl(Duration::from_secs(5)), Duration::from_secs(5));
        assert_eq!(job_ttl(Duration::from_hours(24)), Duration::from_secs(60));
    }
}
