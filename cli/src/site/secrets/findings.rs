//! Headers of sites that can become secrets, and remarks about those that cannot.

use picket_proto::{SiteId, credentials::find_credential_parameters, site::SiteSpec};
use picket_runtime::Secrets;
use picket_store::sites::Site;
use url::Url;

use crate::site::credentials::{self, CredentialHeader};

/// Header of a site that will be replaced.
pub(super) struct PlannedMove {
    pub(super) site: SiteId,
    pub(super) spec: SiteSpec,
    pub(super) url: Url,
    pub(super) header: CredentialHeader,
}

/// What was found in the sites.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) moves: Vec<PlannedMove>,
    /// Lines about credentials that cannot be moved.
    pub(super) remarks: Vec<String>,
}

impl Findings {
    pub(super) fn of_sites(sites: &[Site]) -> Self {
        let mut findings = Self::default();
        for site in sites {
            match &site.spec {
                Ok(spec) => findings.add_site(site.id, spec),
                Err(why) => findings.remarks.push(format!("site {}: cannot be read: {why}\n", site.id)),
            }
        }
        findings
    }

    pub(super) fn add_site(&mut self, site: SiteId, spec: &SiteSpec) {
        for name in find_credential_parameters(&spec.check) {
            let name = picket_proto::validation::sanitize_text(&name, 64);
            self.remarks.push(format!(
                "site {site}: parameter '{name}' of the URL looks like a credential; no option replaces it, \
                 so send it in a header if the site accepts one\n"
            ));
        }
        let Ok(url) = Url::parse(&spec.check.url) else { return };
        for header in credentials::find_headers(&spec.check) {
            if is_set_twice(spec, &header.header) {
                self.remarks.push(format!(
                    "site {site}: header {} stays, because the site sends it in another case or by its options as well; \
                     remove all but one by hand\n",
                    header.header
                ));
                continue;
            }
            if leads_elsewhere(spec, &url) {
                self.remarks.push(format!(
                    "site {site}: header {} stays, because options.connect_to or options.host_header names a place \
                     that the secret has to list among its hosts as well; move it by hand\n",
                    header.header
                ));
                continue;
            }
            if header.value.len() < Secrets::MIN_VALUE_BYTES {
                self.remarks.push(format!(
                    "site {site}: header {} has a value of less than {} bytes, which no secret may have\n",
                    header.header,
                    Secrets::MIN_VALUE_BYTES
                ));
                continue;
            }
            self.moves.push(PlannedMove { site, spec: spec.clone(), url: url.clone(), header });
        }
    }
}

/// Returns true if the site also has the header under its name in another case, or by an option.
fn is_set_twice(spec: &SiteSpec, header: &str) -> bool {
    let options = &spec.check.options;
    let names = spec.check.headers.keys().chain(options.secret_headers.keys());
    let is_sent_by_auth = options.auth.is_some() && header.eq_ignore_ascii_case("authorization");
    names.filter(|name| name.eq_ignore_ascii_case(header)).count() > 1 || is_sent_by_auth
}

/// Returns true if a secret of the site must be allowed at another place than its URL.
fn leads_elsewhere(spec: &SiteSpec, url: &Url) -> bool {
    let options = &spec.check.options;
    // The certificate proves the name of the URL, wherever the connection leads.
    let is_proven = url.scheme() == "https" && spec.check.tls_verify;
    options.host_header.is_some() || (options.connect_to.is_some() && !is_proven)
}

impl PlannedMove {
    pub(super) fn host_rule(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        self.url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    pub(super) fn is_secure(&self) -> bool {
        self.url.scheme() == "https" && self.spec.check.tls_verify
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The moves and remarks of sites with these definitions.
    fn find(sites: &[&str]) -> Findings {
        let mut findings = Findings::default();
        for (site, id) in sites.iter().zip(1..) {
            findings.add_site(SiteId(id), &serde_json::from_str(site).unwrap());
        }
        findings
    }

    #[test]
    fn a_header_that_a_site_sends_twice_stays_and_is_named() {
        for site in [
            r#"{"url":"https://a.example/","headers":{"X-Api-Key":"s3cret-one","x-api-key":"s3cret-two"}}"#,
            r#"{"url":"https://a.example/","headers":{"Authorization":"Bearer s3cret-one","authorization":"Bearer s3cret-two"}}"#,
            r#"{"url":"https://a.example/","headers":{"Authorization":"Bearer s3cret-one","AUTHORIZATION":""}}"#,
            r#"{"url":"https://a.example/","headers":{"Authorization":"Bearer s3cret-one"},"options":{"auth":{"bearer":{"secret":"s"}}}}"#,
            r#"{"url":"https://a.example/","headers":{"x-api-key":"s3cret-one"},"options":{"secret_headers":{"X-Api-Key":{"secret":"s"}}}}"#,
        ] {
            let findings = find(&[site]);

            assert!(findings.moves.is_empty() && !findings.remarks.is_empty(), "{site}");
            let is_named = |remark: &String| {
                remark.contains(" stays, because the site sends it") && !remark.contains("s3cret")
            };
            assert!(findings.remarks.iter().all(is_named), "{:?}", findings.remarks);
        }
        let different =
            r#"{"url":"https://a.example/","headers":{"X-Api-Key":"s3cret-one","X-Api-Token":"s3cret-two"}}"#;
        assert_eq!(find(&[different]).moves.len(), 2);
    }

    #[test]
    fn a_header_stays_where_its_secret_would_need_another_host() {
        for (site, is_moved) in [
            (r#"{"url":"https://a.example/"}"#, true),
            (r#"{"url":"https://a.example/","options":{"connect_to":"192.0.2.7"}}"#, true),
            (r#"{"url":"http://a.example/","options":{"connect_to":"192.0.2.7"}}"#, false),
            (
                r#"{"url":"https://a.example/","tls_verify":false,"options":{"connect_to":"192.0.2.7"}}"#,
                false,
            ),
            (r#"{"url":"https://a.example/","options":{"host_header":"b.example"}}"#, false),
        ] {
            let mut spec = SiteSpec { check: serde_json::from_str(site).unwrap(), ..SiteSpec::new("") };
            spec.check.headers = [("X-Api-Key".to_owned(), "s3cret-value".to_owned())].into();
            let mut findings = Findings::default();
            findings.add_site(SiteId(7), &spec);

            assert_eq!(
                (findings.moves.len(), findings.remarks.len()),
                (usize::from(is_moved), usize::from(!is_moved))
            );
            assert!(findings.remarks.iter().all(|remark| remark.contains("X-Api-Key stays")), "{site}");
        }
    }
}
