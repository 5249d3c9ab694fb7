//! Websites checked by both programs, on loopback: targets of the harness, and scripts for all
//! other behaviours.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use picket_harness::{
    servers,
    targets::{CertificateAuthority, FullBacklog, Identity, Step, Target, TlsQuirk, Validity, gzip_bomb},
};

/// All target websites. Stop when dropped.
pub(crate) struct TargetSites {
    pub(crate) plain: Target,
    pub(crate) scripted: Target,
    pub(crate) secure: Target,
    pub(crate) http2: Target,
    pub(crate) expired: Target,
    pub(crate) not_yet_valid: Target,
    pub(crate) other_host: Target,
    pub(crate) self_signed: Target,
    pub(crate) unknown_issuer: Target,
    pub(crate) chain: Target,
    pub(crate) broken_chain: Target,
    pub(crate) old_tls: Target,
    pub(crate) no_cipher: Target,
    pub(crate) client_certificate: Target,
    pub(crate) other_protocol: Target,
    pub(crate) slow_tls: Target,
    pub(crate) no_tls: Target,
    pub(crate) reset_tls: Target,
    pub(crate) no_close_notify: Target,
    pub(crate) never_responds: Target,
    pub(crate) full_backlog: FullBacklog,
    pub(crate) refused: SocketAddr,
    /// Absent if this machine has no IPv6.
    pub(crate) ipv6: Option<Target>,
    /// File with the trusted root certificate.
    pub(crate) ca_file: PathBuf,
}

impl TargetSites {
    pub(crate) async fn start() -> Self {
        let (authority, foreign) = (CertificateAuthority::new(), CertificateAuthority::new());
        let ca_file = servers::scratch_dir("roots").join("ca.pem");
        std::fs::write(&ca_file, authority.pem()).expect("a file in a directory of ours");
        let of = |validity| authority.issue_identity(&["localhost"], validity);
        let good = of(Validity::Current);
        let issue_below = || {
            authority.new_intermediate(Validity::Current).issue_identity(&["localhost"], Validity::Current)
        };
        Self {
            plain: Target::serve_http().await,
            scripted: Target::serve_script(scripted_response).await,
            secure: Target::serve_https(&good).await,
            http2: Target::serve_http2(&good).await,
            expired: Target::serve_https(&of(Validity::Expired)).await,
            not_yet_valid: Target::serve_https(&of(Validity::NotYetValid)).await,
            other_host: Target::serve_https(&authority.issue_identity(&["other.example"], Validity::Current))
                .await,
            self_signed: Target::serve_https(&Identity::self_signed(&["localhost"])).await,
            unknown_issuer: Target::serve_https(&foreign.issue_identity(&["localhost"], Validity::Current))
                .await,
            chain: Target::serve_https(&issue_below()).await,
            broken_chain: Target::serve_https(&issue_below().without_chain()).await,
            old_tls: Target::serve_odd_https(&good, TlsQuirk::Tls12Only).await,
            no_cipher: Target::serve_odd_https(&good, TlsQuirk::NoUsableCipher).await,
            client_certificate: Target::serve_odd_https(&good, TlsQuirk::WantsClientCert).await,
            other_protocol: Target::serve_odd_https(&good, TlsQuirk::OtherProtocol).await,
            slow_tls: Target::serve_slow_https(&good, Duration::from_millis(300)).await,
            no_tls: Target::serve_raw_steps(&[Step::send("HTTP/1.1 400 Bad Request\r\n\r\n")]).await,
            reset_tls: Target::serve_raw_steps(&[Step::Reset]).await,
            no_close_notify: Target::serve_script_https(&good, |_| {
                vec![Step::send("HTTP/1.1 200 OK\r\n\r\nall is well"), Step::Abandon]
            })
            .await,
            never_responds: Target::serve_silence().await,
            full_backlog: FullBacklog::listen_at(SocketAddr::from(([127, 0, 0, 1], 0)))
                .await
                .expect("a port of 127.0.0.1"),
            refused: Target::closed_address().await,
            ipv6: Target::serve_http_at("[::1]:0".parse().expect("an address")).await.ok(),
            ca_file,
        }
    }
}

/// Complete response with status 200.
fn ok_response(headers: &str, body: &[u8]) -> Vec<Step> {
    let head = format!("HTTP/1.1 200 OK\r\n{headers}content-length: {}\r\n\r\n", body.len());
    vec![Step::Send([head.as_bytes(), body].concat())]
}

fn redirect_response(status: u16, headers: &str) -> Vec<Step> {
    vec![Step::send(format!("HTTP/1.1 {status} Elsewhere\r\n{headers}content-length: 0\r\n\r\n"))]
}

/// Response of the scripted site to `request`, selected by path.
fn scripted_response(request: &str) -> Vec<Step> {
    let mut words = request.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let has = |text: &str| request.to_ascii_lowercase().contains(text);
    let only_if = |well: bool| match well {
        true => ok_response("", b"all is well"),
        false => vec![Step::send("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")],
    };
    let sent = |text: &str| vec![Step::send(text)];
    match path {
        "/nowhere" => redirect_response(302, ""),
        "/nowhere-308" => redirect_response(308, ""),
        "/empty-location" => redirect_response(302, "location: \r\n"),
        "/ftp" => redirect_response(302, "location: ftp://127.0.0.1/\r\n"),
        "/no-url" => redirect_response(302, "location: http://[::1\r\n"),
        "/cookie" if has("\r\ncookie: pass=1") => ok_response("", b"all is well"),
        "/cookie" => redirect_response(302, "set-cookie: pass=1; Path=/\r\nlocation: /cookie\r\n"),
        "/301" => redirect_response(301, "location: /is-get\r\n"),
        "/303" => redirect_response(303, "location: /is-get\r\n"),
        "/307" => redirect_response(307, "location: /is-same\r\n"),
        "/308" => redirect_response(308, "location: /is-same\r\n"),
        "/is-get" => only_if(method == "GET" && !has("the body")),
        "/is-same" => only_if(method != "GET" && has("the body")),
        "/stay" => redirect_response(302, "location: /with-key\r\n"),
        "/with-key" => only_if(has("x-key: secret")),
        "/without-key" => only_if(!has("x-key")),
        "/partial-head" => sent("HTTP/1.1 200 OK\r\nx-a: b"),
        "/reset-head" => vec![Step::send("HTTP/1.1 200 OK\r\nx-a"), Step::wait_ms(50), Step::Reset],
        "/reset-body" => vec![
            Step::send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this"),
            Step::wait_ms(50),
            Step::Reset,
        ],
        "/stalled-body" => {
            vec![Step::send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this"), Step::Stall]
        }
        "/chunked" => chunked_response("5\r\nall i\r\n6\r\ns well\r\n0\r\n\r\n"),
        "/trailers" => chunked_response("b\r\nall is well\r\n0\r\nx-late: yes\r\n\r\n"),
        "/chunk-cut" => chunked_response("5\r\nall i\r\n"),
        "/chunk-wrong" => chunked_response("5\r\nall i\r\nxyz\r\n"),
        "/http-1.0" => sent("HTTP/1.0 200 OK\r\n\r\nall is well"),
        "/http-0.9" => sent("all is well"),
        "/early-hints" => sent(
            "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        ),
        "/two-lengths" => {
            sent("HTTP/1.1 200 OK\r\ncontent-length: 11\r\ncontent-length: 5\r\n\r\nall is well")
        }
        "/no-colon" => sent("HTTP/1.1 200 OK\r\nthis is no header\r\ncontent-length: 2\r\n\r\nok"),
        "/folded" => sent("HTTP/1.1 200 OK\r\nx-a: b\r\n c\r\ncontent-length: 2\r\n\r\nok"),
        "/spaced" => sent("HTTP/1.1 200 OK\r\nx-a : b\r\ncontent-length: 2\r\n\r\nok"),
        "/odd-name" => sent("HTTP/1.1 200 OK\r\nx a@b: c\r\ncontent-length: 2\r\n\r\nok"),
        "/control" => sent("HTTP/1.1 200 OK\r\nx-a: b\x01c\r\ncontent-length: 2\r\n\r\nok"),
        "/no-version" => sent("HTTP 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        "/empty-line" => sent("\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        "/lower-case" => sent("http/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        "/two-spaces" => sent("HTTP/1.1  200 OK\r\ncontent-length: 2\r\n\r\nok"),
        "/signed-length" => sent("HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok"),
        "/worded-length" => sent("HTTP/1.1 200 OK\r\ncontent-length: two\r\n\r\nok"),
        "/same-lengths" => sent("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok"),
        "/length-and-chunks" => sent(
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        "/bare-lf" => sent("HTTP/1.1 200 OK\ncontent-length: 2\n\nok"),
        "/no-reason" => sent("HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok"),
        "/status-20" => sent("HTTP/1.1 20 OK\r\ncontent-length: 2\r\n\r\nok"),
        "/longer" => sent("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok, and more"),
        "/large-head" => ok_response(&format!("x-a: {}\r\n", "x".repeat(1 << 20)), b"ok"),
        "/empty" => ok_response("", b""),
        "/tagged" => ok_response(
            "content-type: text/html; charset=utf-8\r\ncache-control: max-age=60\r\nx-empty:\r\n",
            b"all is well",
        ),
        "/twice" => ok_response("via: 1.1 a\r\nVia: 1.1 b\r\nx-list: a, b\r\n", b"all is well"),
        "/latin" => ok_response("", b"caf\xe9 ferm\xe9"),
        "/utf-8" => ok_response("", "café fermé\nall is well".as_bytes()),
        "/no-gzip" => ok_response("content-encoding: gzip\r\n", b"all is well"),
        "/gzip-cut" => ok_response("content-encoding: gzip\r\n", &gzip_bomb(1)[..200]),
        "/bomb" => ok_response("content-encoding: gzip\r\n", &gzip_bomb(16)),
        "/brotli" => ok_response("content-encoding: br\r\n", b"\x0b\x05\x80all is well\x03"),
        _ => vec![Step::send("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")],
    }
}

fn chunked_response(body: &str) -> Vec<Step> {
    vec![Step::send(format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{body}"))]
}
