//! A scheduled job's message, put together from a site's part, encoded once, and its tick.

use std::{fmt::Write as _, time::Duration};

use crate::{
    CheckRequest, Epoch, Kind, MESSAGE_VERSION, RegionName, Shard, SiteId, Tickets, Timestamp,
    ticket::TicketClaims,
};

/// A site's part of its jobs: the JSON of what to check, without the braces.
///
/// A coordinator holds one of these for each of up to a million sites, so it is one exact allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobTemplate(Box<str>);

/// The tick's part of a job.
#[derive(Clone, Debug)]
pub struct JobTick<'a> {
    /// Whose.
    pub site: SiteId,
    /// Where.
    pub region: &'a RegionName,
    /// Scheduled or confirm.
    pub kind: Kind,
    /// When it is due.
    pub scheduled_at: Timestamp,
    /// Past this it is not worth doing.
    pub expires_at: Timestamp,
    /// The site's shard.
    pub shard: Shard,
    /// Under which lease.
    pub epoch: Epoch,
}

/// How long after its tick a job is worth doing, at most.
pub const MAX_JOB_TTL: Duration = Duration::from_secs(60);

/// How long after its tick a job is worth doing: until the next tick, at most [`MAX_LIFE`].
pub fn job_ttl(interval: Duration) -> Duration {
    interval.min(MAX_JOB_TTL)
}

impl JobTemplate {
    /// The part of `request` that says what to check; its tick's fields are left out.
    pub fn new(request: &CheckRequest) -> Self {
        let what = CheckRequest {
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
        let json = serde_json::to_string(&what).unwrap_or_default();
        Self(json.trim_start_matches('{').strip_suffix('}').unwrap_or_default().into())
    }

    /// Appends the job of `tick`, whose [`id`](Tick::id) this is, to `out`, with its ticket.
    pub fn render_job(&self, tick: &JobTick<'_>, id: &str, tickets: &Tickets, out: &mut String) {
        let JobTick { site, kind, scheduled_at, expires_at, shard, epoch, .. } = tick;
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            r#"{{"v":{MESSAGE_VERSION},"id":"{id}","site_id":{site},"kind":"{kind}","scheduled_at":"{scheduled_at}","expires_at":"{expires_at}","shard":{shard},"epoch":{epoch},"#
        );
        tickets.render_fields(&TicketClaims::from_tick(tick), out);
        out.push_str(&self.0);
        out.push('}');
    }
}

impl JobTick<'_> {
    /// The tick's identity, which is also its `Nats-Msg-Id`: who computes the tick again computes the same.
    pub fn id(&self) -> String {
        let Self { site, region, kind, scheduled_at, .. } = self;
        let ending = if *kind == Kind::Confirm { ".confirm" } else { "" };
        format!("{site}.{region}.{}{ending}", scheduled_at.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ticket::TicketKey;

    #[test]
    fn a_rendered_job_reads_back_as_the_site_with_its_tick() {
        let site = CheckRequest {
            regex: Some("\"ok\\s\"".into()),
            headers: [("A".to_owned(), "{}".to_owned())].into(),
            ..CheckRequest::new("https://example.com/{}")
        };
        let region: RegionName = "eu".parse().unwrap();
        let tick = JobTick {
            site: SiteId(42),
            region: &region,
            kind: Kind::Scheduled,
            scheduled_at: Timestamp::from_millis(1_795_176_000_000),
            expires_at: Timestamp::from_millis(1_795_176_060_000),
            shard: Shard(7),
            epoch: Epoch(3),
        };

        let key = TicketKey { id: 1, secret: vec![7; 32], retired_at: None, is_usable: true };
        let tickets = Tickets::new(uuid::Uuid::from_u128(1).into(), true, &[key]);
        let mut json = String::new();
        JobTemplate::new(&site).render_job(&tick, &tick.id(), &tickets, &mut json);
        let read = CheckRequest::decode(json.as_bytes()).unwrap();

        let expected = CheckRequest {
            id: Some("42.eu.1795176000000".into()),
            site_id: Some(tick.site),
            kind: Some(tick.kind),
            scheduled_at: Some(tick.scheduled_at),
            expires_at: Some(tick.expires_at),
            shard: Some(tick.shard),
            epoch: Some(tick.epoch),
            installation: Some(tickets.installation()),
            ticket: tickets.issue_ticket(&TicketClaims::from_tick(&tick)).map(|ticket| ticket.to_string()),
            ..site
        };
        assert!(read.ticket.is_some());
        assert_eq!(read, expected);
    }

    #[test]
    fn a_plain_site_is_its_url_and_nothing_else() {
        assert_eq!(JobTemplate::new(&CheckRequest::new("http://x/")).0.as_ref(), r#""url":"http://x/""#);
    }

    #[test]
    fn a_job_lives_until_the_next_tick_and_a_minute_at_most() {
        assert_eq!(job_ttl(Duration::from_secs(5)), Duration::from_secs(5));
        assert_eq!(job_ttl(Duration::from_hours(24)), Duration::from_secs(60));
    }
}
