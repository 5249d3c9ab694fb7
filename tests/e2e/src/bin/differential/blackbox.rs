//! blackbox_exporter as a separate process: finds, configures and queries the program, and parses
//! its responses.

use std::{
    collections::HashMap,
    env, fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use picket_harness::{
    Metrics,
    process::{Process, free_address},
    servers,
};
use picket_proto::{CheckRequest, IpVersion, http_assertions::HeaderAssertion};
use serde_json::{Value, json};
use tokio::process::Command;

/// Phases by blackbox_exporter's names, in the order of Picket's.
pub(crate) const BLACKBOX_PHASES: [&str; 5] = ["resolve", "connect", "tls", "processing", "transfer"];

/// Settings of blackbox_exporter without a counterpart in Picket.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BlackboxOptions {
    /// Requests gzip and decompresses the response, which Picket always does.
    pub(crate) has_gzip: bool,
    /// Fails responses with a body of more than 1 MiB, which is Picket's default limit. Without the
    /// option blackbox_exporter reads without a limit.
    pub(crate) has_body_limit: bool,
    /// Prefers IPv6 addresses, which is blackbox_exporter's default.
    pub(crate) prefers_ip6: bool,
}

/// Finds the program: `given`, or either of its names on the PATH or among the tools.
///
/// # Errors
/// Fails if the program is missing, with instructions to install it.
pub(crate) fn find_exporter(given: Option<PathBuf>) -> Result<PathBuf, String> {
    const NAMES: [&str; 2] = ["prometheus-blackbox-exporter", "blackbox_exporter"];
    if let Some(path) = given {
        return match path.is_file() {
            true => Ok(path),
            false => Err(format!("--blackbox: there is no file {}", path.display())),
        };
    }
    let tools = env::var_os("PICKET_TOOLS_DIR").map_or_else(|| PathBuf::from(".tools"), PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain([tools.join("bin"), tools]);
    dirs.flat_map(|dir| NAMES.map(|name| dir.join(name))).find(|program| program.is_file()).ok_or_else(|| {
        "there is no blackbox_exporter to compare with, neither on the PATH nor among the tools.\n\
         'just differential' unpacks the one of Debian 12 where apt-get can download it.\n\
         Or name one that you have: just differential --blackbox PATH"
            .to_owned()
    })
}

/// Running blackbox_exporter. Killed when dropped.
pub(crate) struct BlackboxExporter {
    process: Process,
    pub(crate) version: String,
}

/// Result of a check by blackbox_exporter.
#[derive(Clone, Debug)]
pub(crate) struct ProbeResult {
    pub(crate) success: bool,
    /// Status of the last response.
    pub(crate) status: Option<u16>,
    /// Seconds per phase, in the order of [`BLACKBOX_PHASES`].
    pub(crate) phases: [Option<f64>; 5],
    /// Expiry of the certificate, in seconds since the Unix epoch.
    pub(crate) certificate_ends: Option<i64>,
    /// Last error in the log, or else the last line.
    pub(crate) reason: String,
}

impl BlackboxExporter {
    /// Starts the program with a module for each of `requests`, named `m0`, `m1` and so on.
    ///
    /// # Errors
    /// Fails if the program does not start.
    pub(crate) async fn start(
        program: &Path,
        ca_file: &Path,
        requests: &[(&CheckRequest, BlackboxOptions)],
    ) -> Result<Self, String> {
        let dir = servers::scratch_dir("blackbox");
        let modules: HashMap<String, Value> = requests
            .iter()
            .enumerate()
            .map(|(number, (request, options))| {
                (format!("m{number}"), build_module(request, *options, ca_file))
            })
            .collect();
        let config = dir.join("blackbox.yml");
        // JSON is valid YAML.
        fs::write(&config, json!({ "modules": modules }).to_string()).map_err(|why| why.to_string())?;
        let listen = free_address();
        let mut command = Command::new(program);
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--web.listen-address={listen}"))
            .arg("--history.limit=1");
        let process = Process::spawn("blackbox_exporter", command, listen, &dir);
        process.wait_responding("/-/healthy").await;
        Ok(Self { process, version: read_version(program).await })
    }

    /// Checks `url` with the module of this number.
    ///
    /// # Errors
    /// Fails without a valid response.
    pub(crate) async fn run_probe(&self, number: usize, url: &str) -> Result<ProbeResult, String> {
        let path = format!("/probe?debug=true&module=m{number}&target={}", percent_encode(url));
        let response = self.process.fetch(&path).await.map_err(|why| format!("blackbox_exporter: {why}"))?;
        ProbeResult::parse_answer(&response.body)
            .ok_or_else(|| format!("blackbox_exporter's response has no probe_success:\n{}", response.body))
    }
}

impl ProbeResult {
    /// Parses the log and the metrics of a response with `debug=true`.
    fn parse_answer(text: &str) -> Option<Self> {
        let (log, rest) = text.split_once("Metrics that would have been returned:")?;
        let metrics = Metrics::parse(rest);
        let of_phase = |phase| metrics.sum(&format!("probe_http_duration_seconds{{phase=\"{phase}\"}}"));
        Some(Self {
            success: metrics.sum("probe_success")? == 1.0,
            status: metrics.sum("probe_http_status_code").filter(|code| *code > 0.0).map(|code| code as u16),
            phases: BLACKBOX_PHASES.map(of_phase),
            certificate_ends: metrics
                .sum("probe_ssl_earliest_cert_expiry")
                .filter(|ends| *ends > 0.0)
                .map(|ends| ends as i64),
            reason: extract_reason(log),
        })
    }
}

/// Returns the last log line with the reason for a failure, without the common prefix.
fn extract_reason(log: &str) -> String {
    let last_line = |level: &str| {
        let line = log.lines().rfind(|line| line.contains(level) && !line.contains("Probe failed"))?;
        line.split_once("level=").map(|(_, line)| line.to_owned())
    };
    last_line("level=error").or_else(|| last_line("level=info")).unwrap_or_default()
}

/// Builds the module equivalent to `request`.
fn build_module(request: &CheckRequest, options: BlackboxOptions, ca_file: &Path) -> Value {
    let rule = request.validate().expect("a request that makes sense").status;
    let (wanted, assertions) = (&request.assertions, &request.assertions.headers);
    let mut headers = request.headers.clone();
    // blackbox_exporter sends a header Host as it is given.
    headers.extend(request.options.host_header.iter().map(|host| ("Host".to_owned(), host.clone())));
    let mut http = json!({
        "method": request.method,
        "headers": headers,
        "valid_status_codes": (100..600).filter(|status| rule.allows_status(*status)).collect::<Vec<u16>>(),
        "follow_redirects": request.max_redirects > 0,
        "preferred_ip_protocol": if options.prefers_ip6 || request.ip_version == IpVersion::V6 { "ip6" } else { "ip4" },
        "ip_protocol_fallback": request.ip_version == IpVersion::Any,
        "fail_if_body_not_matches_regexp": request.regex.iter().chain(&wanted.regexes).collect::<Vec<_>>(),
        "fail_if_body_matches_regexp": request.not_regex.iter().chain(&wanted.not_regexes).collect::<Vec<_>>(),
        "fail_if_header_not_matches": assertions.iter().filter_map(build_wanted_header).collect::<Vec<_>>(),
        "fail_if_header_matches": assertions.iter().filter_map(build_forbidden_header).collect::<Vec<_>>(),
        "tls_config": {"ca_file": ca_file, "insecure_skip_verify": !request.tls_verify},
    });
    if let Some(body) = &request.body {
        http["body"] = json!(body);
    }
    if options.has_gzip {
        http["compression"] = json!("gzip");
    }
    if options.has_body_limit {
        http["body_size_limit"] = json!("1MiB");
    }
    json!({"prober": "http", "timeout": format!("{}ms", request.timeout_ms), "http": http})
}

/// Builds the condition that a header is present and one of its values matches.
fn build_wanted_header(assertion: &HeaderAssertion) -> Option<Value> {
    let regex = assertion.regex.as_ref()?;
    Some(json!({"header": assertion.name, "regexp": regex, "allow_missing": false}))
}

/// Builds the condition that no value of a header matches, which an absent header fails too, or that
/// the header is absent.
fn build_forbidden_header(assertion: &HeaderAssertion) -> Option<Value> {
    let (regex, allow_missing) = match (&assertion.not_regex, assertion.absent) {
        (Some(regex), _) => (regex.as_str(), false),
        (None, Some(true)) => ("(?s)^.*$", true),
        (None, _) => return None,
    };
    Some(json!({"header": assertion.name, "regexp": regex, "allow_missing": allow_missing}))
}

async fn read_version(program: &Path) -> String {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().await;
    let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let word = text.split_once("version ").and_then(|(_, rest)| rest.split([' ', ',']).next());
    word.unwrap_or("of an unknown version").to_owned()
}

/// Encodes `text` as a value in a query.
fn percent_encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut escaped, byte| {
        match byte.is_ascii_alphanumeric() {
            true => escaped.push(char::from(byte)),
            false => escaped.push_str(&format!("%{byte:02X}")),
        }
        escaped
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_parsed_by_its_metrics_and_last_error() {
        let text = "Logs for the probe:\n\
             ts=1 caller=a level=info msg=\"Making HTTP request\"\n\
             ts=2 caller=a level=error msg=\"Error for HTTP request\" err=EOF\n\
             ts=3 caller=a level=error msg=\"Probe failed\" duration_seconds=1\n\n\
             Metrics that would have been returned:\n# HELP probe_success\nprobe_success 0\n\
             probe_http_status_code 0\nprobe_http_duration_seconds{phase=\"connect\"} 0.25\n";

        let probe = ProbeResult::parse_answer(text).unwrap();

        assert!(!probe.success && probe.status.is_none() && probe.certificate_ends.is_none());
        assert_eq!(probe.phases, [None, Some(0.25), None, None, None]);
        assert_eq!(probe.reason, "error msg=\"Error for HTTP request\" err=EOF");
    }

    #[test]
    fn a_url_is_escaped_in_a_query() {
        assert_eq!(percent_encode("http://a/?b&c"), "http%3A%2F%2Fa%2F%3Fb%26c");
    }
}
