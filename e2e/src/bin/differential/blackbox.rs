//! blackbox_exporter as a process of its own: found, configured, asked, and its answer read.

use std::{
    collections::HashMap,
    env, fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use picket_proto::{CheckRequest, IpVersion};
use picket_testkit::{eventually, servers};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, Command},
    time::timeout,
};

/// The phases by blackbox_exporter's names, in the order of ours.
pub(crate) const BLACKBOX_PHASES: [&str; 5] = ["resolve", "connect", "tls", "processing", "transfer"];

/// Settings that only blackbox_exporter has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BlackboxOptions {
    /// Asks for gzip and undoes it, which Picket always does.
    pub(crate) has_gzip: bool,
    /// Fails a body of more than 1 MiB, which is Picket's default limit; else it reads on for ever.
    pub(crate) has_body_limit: bool,
    /// Takes an IPv6 address where there is one, as it does unless told otherwise.
    pub(crate) prefers_ip6: bool,
}

/// Finds the program: `given`, or by either of its names on the PATH or among the tools.
///
/// # Errors
/// With what to do, when it is not there.
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
         Debian and Ubuntu have it: apt-get install --no-install-recommends prometheus-blackbox-exporter\n\
         (its service is not needed: systemctl disable --now prometheus-blackbox-exporter).\n\
         Or name one that you have: just differential --blackbox PATH"
            .to_owned()
    })
}

/// A running blackbox_exporter. Dropped, it is killed.
pub(crate) struct BlackboxExporter {
    port: u16,
    pub(crate) version: String,
    _child: Child,
}

/// What it says of one check.
#[derive(Clone, Debug)]
pub(crate) struct ProbeResult {
    pub(crate) success: bool,
    /// Of the last answer.
    pub(crate) status: Option<u16>,
    /// In seconds, by [`PHASES`].
    pub(crate) phases: [Option<f64>; 5],
    /// When the certificate ends, in seconds since the Unix epoch.
    pub(crate) certificate_ends: Option<i64>,
    /// The last thing that it logged of an error, or else at all.
    pub(crate) reason: String,
}

impl BlackboxExporter {
    /// Starts it with a module `m0`, `m1`, … for each of `requests`.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) async fn start(
        program: &Path,
        ca_file: &Path,
        requests: &[(&CheckRequest, BlackboxOptions)],
    ) -> Result<Self, String> {
        let dir = servers::scratch_dir("blackbox");
        let modules: HashMap<String, Value> = requests
            .iter()
            .enumerate()
            .map(|(number, (request, own))| (format!("m{number}"), build_module(request, *own, ca_file)))
            .collect();
        let config = dir.join("blackbox.yml");
        // YAML reads JSON.
        fs::write(&config, json!({ "modules": modules }).to_string()).map_err(|why| why.to_string())?;
        let log = fs::File::create(dir.join("blackbox.log")).map_err(|why| why.to_string())?;
        let port = servers::non_ephemeral_port();
        let child = Command::new(program)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--history.limit=1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(|why| format!("{}: {why}", program.display()))?;
        let blackbox = Self { port, version: read_version(program).await, _child: child };
        eventually(Duration::from_secs(20), "blackbox_exporter to answer", async || {
            match blackbox.http_get("/-/healthy").await {
                Ok(text) if text.contains("Healthy") => Ok(()),
                other => Err((other, fs::read_to_string(dir.join("blackbox.log")))),
            }
        })
        .await;
        Ok(blackbox)
    }

    /// Checks `url` as the module of this number says.
    ///
    /// # Errors
    /// When it does not answer, or not as it should.
    pub(crate) async fn run_probe(&self, number: usize, url: &str) -> Result<ProbeResult, String> {
        let path = format!("/probe?debug=true&module=m{number}&target={}", percent_encode(url));
        let text = self.http_get(&path).await.map_err(|why| format!("blackbox_exporter: {why}"))?;
        ProbeResult::parse_answer(&text)
            .ok_or_else(|| format!("blackbox_exporter's answer tells no success:\n{text}"))
    }

    async fn http_get(&self, path: &str) -> io::Result<String> {
        // By HTTP/1.0 nothing comes in chunks.
        let request = format!("GET {path} HTTP/1.0\r\nhost: 127.0.0.1\r\n\r\n");
        let mut answer = Vec::new();
        timeout(Duration::from_secs(30), async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
            stream.write_all(request.as_bytes()).await?;
            stream.read_to_end(&mut answer).await
        })
        .await??;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}

impl ProbeResult {
    /// Reads the log and the metrics of an answer with `debug=true`.
    fn parse_answer(text: &str) -> Option<Self> {
        let (log, rest) = text.split_once("Metrics that would have been returned:")?;
        let metrics: HashMap<&str, f64> = rest
            .lines()
            .filter(|line| line.starts_with("probe_"))
            .filter_map(|line| line.rsplit_once(' '))
            .filter_map(|(name, value)| Some((name, value.parse().ok()?)))
            .collect();
        let of_phase =
            |phase| metrics.get(format!("probe_http_duration_seconds{{phase=\"{phase}\"}}").as_str());
        Some(Self {
            success: *metrics.get("probe_success")? == 1.0,
            status: metrics
                .get("probe_http_status_code")
                .filter(|code| **code > 0.0)
                .map(|code| *code as u16),
            phases: BLACKBOX_PHASES.map(|phase| of_phase(phase).copied()),
            certificate_ends: metrics
                .get("probe_ssl_earliest_cert_expiry")
                .filter(|ends| **ends > 0.0)
                .map(|ends| *ends as i64),
            reason: extract_reason(log),
        })
    }
}

/// The last line of a log that says what went wrong, without what all lines have.
fn extract_reason(log: &str) -> String {
    let said = |level: &str| {
        let line = log.lines().rfind(|line| line.contains(level) && !line.contains("Probe failed"))?;
        line.split_once("level=").map(|(_, line)| line.to_owned())
    };
    said("level=error").or_else(|| said("level=info")).unwrap_or_default()
}

/// What blackbox_exporter is to do where Picket does `request`.
fn build_module(request: &CheckRequest, own: BlackboxOptions, ca_file: &Path) -> Value {
    let rule = request.validate().expect("a request that makes sense").status;
    let mut http = json!({
        "method": request.method,
        "headers": request.headers,
        "valid_status_codes": (100..600).filter(|status| rule.allows_status(*status)).collect::<Vec<u16>>(),
        "follow_redirects": request.max_redirects > 0,
        "preferred_ip_protocol": if own.prefers_ip6 || request.ip_version == IpVersion::V6 { "ip6" } else { "ip4" },
        "ip_protocol_fallback": request.ip_version == IpVersion::Any,
        "fail_if_body_not_matches_regexp": request.regex.iter().collect::<Vec<_>>(),
        "fail_if_body_matches_regexp": request.not_regex.iter().collect::<Vec<_>>(),
        "tls_config": {"ca_file": ca_file, "insecure_skip_verify": !request.tls_verify},
    });
    if let Some(body) = &request.body {
        http["body"] = json!(body);
    }
    if own.has_gzip {
        http["compression"] = json!("gzip");
    }
    if own.has_body_limit {
        http["body_size_limit"] = json!("1MiB");
    }
    json!({"prober": "http", "timeout": format!("{}ms", request.timeout_ms), "http": http})
}

async fn read_version(program: &Path) -> String {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().await;
    let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let word = text.split_once("version ").and_then(|(_, rest)| rest.split([' ', ',']).next());
    word.unwrap_or("of an unknown version").to_owned()
}

/// `text` as a value in a query.
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
    fn an_answer_is_read_by_its_metrics_and_its_last_error() {
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
    fn a_url_is_one_value_of_a_query() {
        assert_eq!(percent_encode("http://a/?b&c"), "http%3A%2F%2Fa%2F%3Fb%26c");
    }
}
