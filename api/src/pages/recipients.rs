//! Acknowledgement of an incident, and recipients of messages about a site.

use askama::Template;
use picket_store::{acknowledgements::Acknowledgement, routes::SiteReach};

use super::parts::{Behind, TimeMark};

/// Acknowledgement of an incident, with its form.
#[derive(Clone, Debug, Template)]
#[template(path = "parts/care.html")]
pub(crate) struct CareView {
    id: i64,
    is_open: bool,
    may_write: bool,
    by: Option<String>,
    at: Option<TimeMark>,
    note: String,
}

impl CareView {
    pub(super) fn new(
        id: i64,
        is_open: bool,
        may_write: bool,
        acknowledged: Option<Acknowledgement>,
    ) -> Self {
        let at = acknowledged.as_ref().map(|acknowledged| TimeMark(acknowledged.acknowledged_at.0));
        let note =
            acknowledged.as_ref().and_then(|acknowledged| acknowledged.note.clone()).unwrap_or_default();
        let by = acknowledged.map(|acknowledged| acknowledged.acknowledged_by);
        Self { id, is_open, may_write, by, at, note }
    }
}

/// Recipients of messages about a site.
#[derive(Clone, Debug, Template)]
#[template(path = "parts/recipients.html")]
pub(crate) struct RecipientsView {
    id: i64,
    channels: String,
    later: String,
    routes: String,
    no_routes: bool,
    may_write: bool,
    behind: Behind,
}

impl RecipientsView {
    pub(super) fn new(reach: &SiteReach, may_write: bool, public_url: &str) -> Self {
        let id = reach.site_id;
        Self {
            id,
            channels: reach.channels.join(", "),
            later: reach.escalation_channels.join(", "),
            routes: reach.routes.join(", "),
            no_routes: reach.routes.is_empty(),
            may_write,
            behind: Behind {
                sql: String::new(),
                command: format!("picket route test {id}"),
                curl: format!("curl '{public_url}/api/v1/reach?site={id}'"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use picket_store::DbTimestamp;

    use super::*;

    const HOSTILE: &str = "<script>alert(1)</script>";

    #[test]
    fn an_open_incident_has_a_form_until_the_acknowledgement() {
        let acknowledged = Acknowledgement {
            incident_id: 7,
            acknowledged_at: DbTimestamp("2026-11-20T12:00:00Z".parse().unwrap()),
            acknowledged_by: HOSTILE.to_owned(),
            note: Some(HOSTILE.to_owned()),
        };
        let render = |is_open, may_write, by| CareView::new(7, is_open, may_write, by).render().unwrap();

        assert!(render(true, true, None).contains("/incidents/7/acknowledge"));
        assert!(!render(true, false, None).contains("<form"));
        assert!(!render(false, true, None).contains("<form"));
        let taken = render(true, true, Some(acknowledged));
        assert!(taken.contains("/incidents/7/withdraw") && taken.contains("2026-11-20 12:00:00"), "{taken}");
        assert!(!taken.contains(HOSTILE), "{taken}");
    }

    #[test]
    fn a_site_without_a_route_says_so() {
        let mut reach = SiteReach {
            site_id: 7,
            site: String::new(),
            routes: Vec::new(),
            channels: Vec::new(),
            escalation_channels: Vec::new(),
        };
        let render = |reach: &SiteReach| RecipientsView::new(reach, true, "http://x").render().unwrap();
        assert!(render(&reach).contains("No route concerns it."));
        reach.channels = vec!["ops".to_owned(), "desk".to_owned()];
        reach.routes = vec!["all".to_owned()];
        assert!(render(&reach).contains("At once: ops, desk."));
    }
}
