//! The certificate of a site: its end in each region, and the first end of its chain where a check warned of it.

use picket_proto::Timestamp;
use picket_store::{certificates::SiteCertificate, site_history::CheckRow};

use super::parts::{Behind, TimeMark};

/// The certificate that a region received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertificateItem {
    pub(crate) region: String,
    pub(crate) expires_at: TimeMark,
    pub(crate) days_left: i64,
    pub(crate) seen_at: TimeMark,
}

/// Part of a page about the certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertificateView {
    /// The earliest end in words.
    pub(crate) summary: String,
    /// The certificate of the chain that ends first, in words.
    pub(crate) chain: Option<String>,
    /// The open warning about it.
    pub(crate) warning: Option<String>,
    pub(crate) items: Vec<CertificateItem>,
    pub(crate) behind: Behind,
}

impl CertificateView {
    /// The view, if the site has had a certificate or should have one.
    pub(super) fn new(
        site: i64,
        url: &str,
        certificates: &[SiteCertificate],
        checks: &[CheckRow],
        now: Timestamp,
        public_url: &str,
    ) -> Option<Self> {
        if certificates.is_empty() && !url.starts_with("https://") {
            return None;
        }
        let items: Vec<CertificateItem> = certificates
            .iter()
            .map(|seen| CertificateItem {
                region: seen.region.clone(),
                expires_at: TimeMark(seen.expires_at.0),
                days_left: count_days(now, seen.expires_at.0),
                seen_at: TimeMark(seen.seen_at.0),
            })
            .collect();
        let summary = match items.iter().min_by_key(|item| item.expires_at) {
            None => "No region has received a certificate yet.".to_owned(),
            Some(first) if first.days_left < 0 => "The certificate has expired.".to_owned(),
            Some(first) => format!("{} left.", describe_days(first.days_left)),
        };
        Some(Self {
            summary,
            chain: checks.iter().find_map(describe_chain),
            warning: None,
            items,
            behind: Behind {
                sql: format!("SELECT expires_at, days_left FROM report.certificates WHERE site_id = {site};"),
                command: format!("picket site show {site}"),
                curl: format!("curl '{public_url}/api/v1/certificates?days=30'"),
            },
        })
    }
}

/// Whole days until a time; negative after it.
fn count_days(now: Timestamp, end: Timestamp) -> i64 {
    end.as_micros().saturating_sub(now.as_micros()).div_euclid(86_400_000_000)
}

fn describe_days(days: i64) -> String {
    match days {
        0 => "Less than a day".to_owned(),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

/// The certificate of the chain that ends first, as a check that warns of it recorded it.
fn describe_chain(check: &CheckRow) -> Option<String> {
    let certificate = check.details.as_ref()?.get("certificate")?;
    let end = certificate.get("expires_at")?.as_str()?;
    let subject =
        certificate.get("subject").and_then(|subject| subject.as_str()).unwrap_or("an unnamed subject");
    Some(format!(
        "The first of the chain to end is that of {subject}, at {}.",
        end.get(..16)?.replace('T', " ") + " UTC"
    ))
}

#[cfg(test)]
mod tests {
    use picket_store::DbTimestamp;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn seen(region: &str, end: &str) -> SiteCertificate {
        SiteCertificate {
            region: region.to_owned(),
            expires_at: DbTimestamp(at(end)),
            seen_at: DbTimestamp(at("2026-11-20T11:59:00Z")),
        }
    }

    fn view(url: &str, certificates: &[SiteCertificate]) -> Option<CertificateView> {
        CertificateView::new(7, url, certificates, &[], at("2026-11-20T12:00:00Z"), "http://x")
    }

    #[test]
    fn the_earliest_end_of_all_regions_counts() {
        let certificates = [seen("eu", "2027-01-20T12:00:00Z"), seen("us", "2026-11-28T13:00:00Z")];
        let found = view("https://example.com", &certificates).unwrap();
        assert_eq!(found.summary, "8 days left.");
        assert_eq!(found.items.iter().map(|item| item.days_left).collect::<Vec<_>>(), [61, 8]);
        let expired = view("https://example.com", &[seen("eu", "2026-11-20T11:00:00Z")]).unwrap();
        assert_eq!(expired.summary, "The certificate has expired.");
    }

    #[test]
    fn a_site_without_tls_has_no_certificate_and_one_with_it_waits_for_its_first() {
        assert_eq!(view("http://example.com", &[]), None);
        assert_eq!(
            view("https://example.com", &[]).unwrap().summary,
            "No region has received a certificate yet."
        );
    }
}
