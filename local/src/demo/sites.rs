//! Sites of the demo: one for each kind of row.

use picket_proto::site::{IntervalRange, SiteSpec};

/// Tag of all demo sites.
pub const DEMO_TAG: &str = "demo";

/// A site, with the expected outcome as text for the user.
pub struct DemoSite {
    /// Definition of the site.
    pub spec: SiteSpec,
    /// Expected outcome.
    pub description: &'static str,
}

/// All demo sites, for a target on `port`.
pub fn demo_sites(port: u16, intervals: IntervalRange) -> Vec<DemoSite> {
    let (plain, secure) = (format!("http://127.0.0.1:{port}"), port.saturating_add(1));
    let interval = i64::try_from(intervals.min.as_secs().max(5)).unwrap_or(5);
    let site = |name: &str, url: String, description: &'static str, change: fn(&mut SiteSpec)| {
        let mut spec = SiteSpec::new(url);
        spec.name = Some(name.to_owned());
        spec.interval_seconds = interval;
        spec.check.timeout_ms = 3_000;
        spec.tags = vec![DEMO_TAG.to_owned()];
        change(&mut spec);
        DemoSite { spec, description }
    };
    let at = |path: &str| format!("{plain}{path}");
    vec![
        site("fine", at("/fine"), "up", |_| {}),
        site(
            "fine, with TLS",
            format!("https://localhost:{secure}/fine"),
            "up, with the TLS phase and the certificate's expiry",
            |spec| {
                spec.check.ip_version = picket_proto::IpVersion::V4;
            },
        ),
        site("slow", at("/slow"), "up, with a first byte that takes 0.3 to 1.5 s", |_| {}),
        site("matching regex", at("/health"), "up, the regex matches", |spec| {
            spec.check.regex = Some(r#""status": *"ok""#.to_owned());
        }),
        site("redirect chain", at("/hop/3"), "up, after three redirects", |_| {}),
        site("failing", at("/failing"), "down: status 500", |_| {}),
        site("flapping", at("/flapping"), "up for 20 s, then down for 20 s", |_| {}),
        site("wrong regex", at("/maintenance"), "down: 200, but the regex does not match", |spec| {
            spec.check.regex = Some("Welcome".to_owned());
        }),
        site("error in the page", at("/stacktrace"), "down: 200, but the forbidden regex matches", |spec| {
            spec.check.not_regex = Some("panicked at".to_owned());
        }),
        site("expired certificate", format!("https://127.0.0.1:{secure}/fine"), "down: TLS, expired", |_| {}),
        site("redirect loop", at("/loop"), "down: redirect", |_| {}),
        site("closed port", "http://127.0.0.1:1/".to_owned(), "down: connect, refused", |_| {}),
        site("never answers", at("/silent"), "down: timeout, after 2 s", |spec| {
            spec.check.timeout_ms = 2_000
        }),
        site("breaks off", at("/cut"), "down: the connection ends within the body", |_| {}),
        site("big body", at("/big"), "down: the match lies beyond the part that is read", |spec| {
            spec.check.regex = Some("the end".to_owned());
        }),
        site(
            "blocked",
            "http://169.254.169.254/latest/meta-data/".to_owned(),
            "missed: the address policy refuses this address",
            |_| {},
        ),
    ]
}
