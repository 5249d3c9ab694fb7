//! Modules of blackbox_exporter, and their metrics from a result of Picket.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use picket_proto::{Cause, CheckRequest, CheckResult, Outcome};

use super::exposition::Exposition;

/// A module of blackbox_exporter's example configuration that Picket knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Module {
    /// A GET request that must be answered with a status of 200 to 299.
    Http2xx,
    /// A POST request without a body that must be answered with a status of 200 to 299.
    HttpPost2xx,
}

impl Module {
    pub(crate) const ALL_MODULES: [Self; 2] = [Self::Http2xx, Self::HttpPost2xx];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Http2xx => "http_2xx",
            Self::HttpPost2xx => "http_post_2xx",
        }
    }

    /// Finds a module by its name; an empty name is the default, as in blackbox_exporter.
    pub(crate) fn find(name: &str) -> Option<Self> {
        match name {
            "" => Some(Self::Http2xx),
            name => Self::ALL_MODULES.into_iter().find(|module| module.as_str() == name),
        }
    }

    /// The check of a target, which is an URL or, as in blackbox_exporter, a host for `http://`.
    pub(crate) fn build_request(self, target: &str, timeout: Duration) -> CheckRequest {
        let is_url = ["http://", "https://"].iter().any(|scheme| target.starts_with(scheme));
        let url = if is_url { target.to_owned() } else { format!("http://{target}") };
        let timeout_ms = i64::try_from(timeout.as_millis()).unwrap_or(CheckRequest::MAX_TIMEOUT_MS);
        let mut request = CheckRequest::new(url);
        request.timeout_ms = timeout_ms.clamp(CheckRequest::MIN_TIMEOUT_MS, CheckRequest::MAX_TIMEOUT_MS);
        if self == Self::HttpPost2xx {
            request.method = "POST".to_owned();
        }
        request
    }
}

/// Metrics of blackbox_exporter for a result that is `up` or `down`. `elapsed` is the time of the
/// whole request, which the result lacks if the check never began.
pub(crate) fn write_metrics(result: &CheckResult, elapsed: Duration) -> String {
    let seconds = |micros: Option<u32>| f64::from(micros.unwrap_or(0)) / 1e6;
    let flag = |condition: bool| f64::from(u8::from(condition));
    let timing = &result.timing;
    let total = timing.total_us.map_or(elapsed.as_secs_f64(), |micros| seconds(Some(micros)));
    let mut text = Exposition::default();
    text.add_gauge("probe_dns_lookup_time_seconds", "Time of the name resolution", seconds(timing.dns_us));
    text.add_gauge("probe_duration_seconds", "Time of the whole check", total);
    text.add_gauge(
        "probe_failed_due_to_regex",
        "1 if the body did not match",
        flag(result.cause == Some(Cause::Body)),
    );
    // Picket does not record the header Content-Length; -1 means unknown there, too.
    let content_length = if result.http_status.is_some() { -1.0 } else { 0.0 };
    text.add_gauge(
        "probe_http_content_length",
        "Always -1 after a response: the length that the server announced is not recorded",
        content_length,
    );
    text.add_family(
        "probe_http_duration_seconds",
        "Time of each phase, summed over all redirects",
        &[
            (&[("phase", "connect")], seconds(timing.connect_us)),
            (&[("phase", "processing")], seconds(timing.first_byte_us)),
            (&[("phase", "resolve")], seconds(timing.dns_us)),
            (&[("phase", "tls")], seconds(timing.tls_us)),
            (&[("phase", "transfer")], seconds(timing.transfer_us)),
        ],
    );
    text.add_gauge("probe_http_redirects", "Number of followed redirects", f64::from(result.redirects));
    // The scheme of the last URL is not recorded.
    text.add_gauge(
        "probe_http_ssl",
        "1 if a connection of the check used TLS",
        flag(timing.tls_us.is_some()),
    );
    let status = f64::from(result.http_status.unwrap_or(0));
    text.add_gauge("probe_http_status_code", "Status of the last response", status);
    let body_bytes = result.body_bytes as f64;
    text.add_gauge("probe_http_uncompressed_body_length", "Bytes read of the decoded body", body_bytes);
    let version = result.http_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0.0);
    text.add_gauge("probe_http_version", "HTTP version of the last response", version);
    let address = result.remote_addr.as_deref().and_then(|address| address.parse::<SocketAddr>().ok());
    if let Some(address) = address {
        let hash = f64::from(hash_address(address.ip()));
        text.add_gauge(
            "probe_ip_addr_hash",
            "Hash of the address of the last connection, which shows that it changed",
            hash,
        );
        let protocol = if address.is_ipv4() { 4.0 } else { 6.0 };
        text.add_gauge("probe_ip_protocol", "IP version of the last connection: 4 or 6", protocol);
    }
    if let Some(expires_at) = result.tls_expires_at {
        let expires_at = expires_at.as_micros().div_euclid(1_000_000) as f64;
        text.add_gauge(
            "probe_ssl_earliest_cert_expiry",
            "Expiry of the server's certificate in Unix time",
            expires_at,
        );
    }
    let success = flag(result.outcome == Outcome::Up);
    text.add_gauge("probe_success", "1 if the target is up, 0 if it is down", success);
    text.into_text()
}

/// FNV-1a of the address, as blackbox_exporter computes it.
fn hash_address(address: IpAddr) -> u32 {
    let hash = |bytes: &[u8]| {
        bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
    };
    match address {
        IpAddr::V4(address) => hash(&address.octets()),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => hash(&address.octets()),
            None => hash(&address.octets()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_found_by_their_names_and_the_default_without() {
        assert_eq!(Module::find(""), Some(Module::Http2xx));
        for module in Module::ALL_MODULES {
            assert_eq!(Module::find(module.as_str()), Some(module));
        }
        assert_eq!(Module::find("tcp_connect"), None);
    }

    #[test]
    fn a_target_without_a_scheme_is_a_host() {
        let request = |target| Module::HttpPost2xx.build_request(target, Duration::from_millis(1_500));

        assert_eq!(request("example.com/a").url, "http://example.com/a");
        assert_eq!(request("https://example.com").url, "https://example.com");
        assert_eq!((request("a").method, request("a").timeout_ms), ("POST".to_owned(), 1_500));
        assert_eq!(Module::Http2xx.build_request("a", Duration::from_secs(500)).timeout_ms, 60_000);
    }

    #[test]
    fn an_address_has_the_hash_of_fnv_1a() {
        assert_eq!(
            hash_address("127.0.0.1".parse().unwrap()),
            hash_address("::ffff:127.0.0.1".parse().unwrap())
        );
        // The bytes of the text "foob", for which the algorithm's authors publish this value.
        assert_eq!(hash_address("102.111.111.98".parse().unwrap()), 0x3f50_76ef);
    }

    #[test]
    fn a_failed_check_has_all_phases_and_no_success() {
        let json = r#"{"v":1,"id":"a","kind":"adhoc","region":"eu","prober":"p","url":"http://x/","scheduled_at":
            "2026-11-20T12:00:00.000000Z","outcome":"down","cause":"connect","timing":{"dns_us":1500,"total_us":2500000}}"#;

        let text = write_metrics(&serde_json::from_str(json).unwrap(), Duration::from_secs(9));

        for line in [
            "probe_success 0",
            "probe_duration_seconds 2.5",
            "probe_http_duration_seconds{phase=\"resolve\"} 0.0015",
            "probe_http_duration_seconds{phase=\"tls\"} 0",
            "probe_http_status_code 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        assert!(!text.contains("probe_ip_protocol") && !text.contains("cert_expiry"), "{text}");
    }
}
