//! Secrets of checks: where they are sent, where they are not, and access tokens obtained with
//! them.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use futures_util::future::join_all;
use picket_harness::{
    builders::scheduled_job_subject,
    targets::{CertificateAuthority, Step, Target, TokenEndpoint, Validity},
};
use picket_prober::{
    SecretsOptions,
    check::{CheckLimits, Checker, ClientOptions, Observation},
};
use picket_proto::{Cause, CheckRequest, CheckResult, Outcome, SiteId, subject};
use picket_runtime::Secrets;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    bus::{STATE_TIMEOUT, TestRegion, scheduled_request},
    http::{assert_down, test_limits},
};

const PASSWORD: &str = "MARK-password";
/// Base64 of `me:MARK-password`.
const LOGIN: &str = "Basic bWU6TUFSSy1wYXNzd29yZA==";

/// A secrets file with the secret `mark` for `hosts`.
struct SecretsFile {
    directory: TempDir,
}

impl SecretsFile {
    fn new(hosts: &[String], insecure: bool) -> Self {
        let file = Self { directory: TempDir::new().unwrap() };
        file.write(&format!(
            "[secret.mark]\nvalue = '{PASSWORD}'\nhosts = {hosts:?}\ninsecure = {insecure}\n"
        ));
        file
    }

    fn for_targets(targets: &[&Target]) -> Self {
        Self::new(&targets.iter().map(|target| target.address().to_string()).collect::<Vec<_>>(), true)
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("secrets.toml")
    }

    fn write(&self, text: &str) {
        fs::write(self.path(), text).unwrap();
        fs::set_permissions(self.path(), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn checker(&self) -> Checker {
        self.checker_with(&test_limits())
    }

    fn checker_with(&self, limits: &CheckLimits) -> Checker {
        let secrets = Secrets::load(&self.path()).unwrap();
        Checker::with_options(limits, ClientOptions { secrets, ..ClientOptions::default() }).unwrap()
    }
}

fn request(url: String, options: Value) -> CheckRequest {
    CheckRequest { options: serde_json::from_value(options).unwrap(), ..CheckRequest::new(url) }
}

fn bearer() -> Value {
    json!({"auth": {"bearer": {"secret": "mark"}}})
}

fn oauth(token_url: String) -> Value {
    json!({"auth": {"oauth2": {"token_url": token_url, "client_id": "me",
        "client_secret": {"secret": "mark"}, "scopes": ["read", "write"]}}})
}

async fn run(checker: &Checker, request: &CheckRequest) -> Observation {
    checker.run_check(&request.validate().unwrap()).await
}

#[track_caller]
fn assert_unavailable(seen: &Observation, message: &str) {
    assert_eq!((seen.outcome, seen.cause), (Outcome::Missed, Some(Cause::SecretUnavailable)), "{seen:?}");
    let said = seen.message.as_deref().unwrap_or_default();
    assert!(said.contains(message) && !said.contains("MARK"), "'{said}' does not say '{message}'");
}

#[tokio::test]
async fn secrets_are_sent_to_the_sites_own_origin_and_not_after_a_redirect() {
    let (target, other) = (Target::serve_http().await, Target::serve_http().await);
    let checker = SecretsFile::for_targets(&[&target, &other]).checker();
    let basic = json!({"auth": {"basic": {"user": "me", "password": {"secret": "mark"}}},
        "secret_headers": {"X-Api-Key": {"secret": "mark"}}});

    let seen = run(&checker, &request(target.url("/redirect/1"), basic.clone())).await;
    assert_eq!(seen.outcome, Outcome::Up, "{seen:?}");
    for head in target.received_requests() {
        assert!(head.contains(LOGIN) && head.contains(&format!("x-api-key: {PASSWORD}")), "{head}");
    }
    let seen = run(&checker, &request(target.url(&format!("/to/{}", other.url("/ok"))), basic)).await;
    assert_eq!((seen.outcome, seen.redirects), (Outcome::Up, 1));
    let [elsewhere] = other.received_requests().try_into().unwrap();
    assert!(
        !elsewhere.contains("MARK") && !elsewhere.to_lowercase().contains("authorization"),
        "{elsewhere}"
    );
}

#[tokio::test]
async fn a_check_of_a_host_that_is_not_listed_is_missed_and_sends_nothing() {
    let (target, evil) = (Target::serve_http().await, Target::serve_http().await);
    let file = SecretsFile::for_targets(&[&target]);
    let address = evil.address();
    let unlisted = format!("secret 'mark' may not be sent to {address}, which is not among its hosts");

    for options in
        [bearer(), json!({"secret_headers": {"X-Api-Key": {"secret": "mark"}}}), oauth(target.url("/"))]
    {
        assert_unavailable(&run(&file.checker(), &request(evil.url("/ok"), options)).await, &unlisted);
    }
    let led_elsewhere = json!({"auth": {"bearer": {"secret": "mark"}}, "connect_to": address.to_string()});
    assert_unavailable(&run(&file.checker(), &request(target.url("/ok"), led_elsewhere)).await, &unlisted);
    let unknown = json!({"auth": {"bearer": {"secret": "other"}}});
    let seen = run(&file.checker(), &request(target.url("/ok"), unknown)).await;
    assert_unavailable(&seen, "secret 'other' is not in the secrets file");
    assert_eq!((evil.accepted_connections(), target.accepted_connections()), (0, 0));
}

#[tokio::test]
async fn a_secret_needs_a_verified_certificate_unless_its_entry_says_otherwise() {
    let authority = CertificateAuthority::new();
    let identity = authority.issue_identity(&["localhost"], Validity::Current);
    let target = Target::serve_https(&identity).await;
    let roots = tempfile::NamedTempFile::new().unwrap();
    fs::write(roots.path(), authority.pem()).unwrap();
    let limits = CheckLimits { ca_file: Some(roots.path().to_owned()), ..test_limits() };
    let hosts = [format!("localhost:{}", target.address().port())];
    let verified = request(target.localhost_url("/ok"), bearer());
    let unverified = CheckRequest { tls_verify: false, ..verified.clone() };

    let strict = SecretsFile::new(&hosts, false).checker_with(&limits);
    assert_eq!(run(&strict, &verified).await.outcome, Outcome::Up);
    assert_unavailable(&run(&strict, &unverified).await, "without https and a verified certificate");
    let stranger = SecretsFile::new(&hosts, false).checker();
    assert_eq!(run(&stranger, &verified).await.cause, Some(Cause::Tls));
    assert_eq!(target.received_requests().len(), 1, "the secret was sent once");

    let lenient = SecretsFile::new(&hosts, true).checker();
    assert_eq!(run(&lenient, &unverified).await.outcome, Outcome::Up);
}

#[tokio::test]
async fn a_token_is_requested_once_for_all_checks_and_its_time_is_not_the_sites() {
    const DELAY: Duration = Duration::from_millis(2_000);
    let endpoint = TokenEndpoint::serve_http(LOGIN, "MARK-token", DELAY).await;
    let issuer = endpoint.issuer();
    let site = Target::serve_script(move |head| issuer.protect_site(head)).await;
    let checker = SecretsFile::for_targets(&[endpoint.target(), &site]).checker();
    let check = request(site.url("/"), oauth(endpoint.target().url("/token")));

    let seen = join_all((0..20).map(|_| run(&checker, &check))).await;

    assert!(seen.iter().all(|seen| seen.outcome == Outcome::Up), "{seen:?}");
    assert!(seen.iter().all(|seen| seen.timing.total_us < Some(1_500_000)), "{seen:?}");
    assert_eq!((endpoint.issuer().issued_tokens(), site.accepted_connections()), (1, 20));
    let [asked] = endpoint.target().received_requests().try_into().unwrap();
    assert!(asked.contains("grant_type=client_credentials&scope=read+write"), "{asked}");
}

#[tokio::test]
async fn a_token_that_the_site_rejects_is_replaced_once() {
    let endpoint = TokenEndpoint::serve_http(LOGIN, "MARK-token", Duration::ZERO).await;
    let issuer = endpoint.issuer();
    let site = Target::serve_script(move |head| issuer.protect_site(head)).await;
    let checker = SecretsFile::for_targets(&[endpoint.target(), &site]).checker();
    let check = request(site.url("/"), oauth(endpoint.target().url("/token")));
    assert_eq!(run(&checker, &check).await.outcome, Outcome::Up);

    endpoint.issuer().revoke_tokens();
    assert_eq!(run(&checker, &check).await.outcome, Outcome::Up);
    assert_eq!((endpoint.issuer().issued_tokens(), site.accepted_connections()), (2, 3));

    endpoint.issuer().revoke_tokens();
    let seen = run(&checker, &check).await;
    assert_down(&seen, Cause::Status, "status 401");
    assert_eq!(endpoint.issuer().issued_tokens(), 2, "one replacement within 30 s");
}

#[tokio::test]
async fn trouble_with_the_token_endpoint_is_missed_and_not_the_sites() {
    let endpoint = TokenEndpoint::serve_http("another login", "MARK-token", Duration::ZERO).await;
    let site = Target::serve_http().await;
    let file = SecretsFile::for_targets(&[endpoint.target(), &site]);
    let check = request(site.url("/ok"), oauth(endpoint.target().url("/token")));

    let seen = run(&file.checker(), &check).await;
    assert_unavailable(
        &seen,
        "no access token from 127.0.0.1 with the secret 'mark': status 401 (invalid_client)",
    );
    endpoint.issuer().set_failing(true);
    assert_unavailable(&run(&file.checker(), &check).await, "status 500");
    let address = endpoint.target().address();
    drop(endpoint);
    let gone = run(&file.checker(), &check).await;
    assert_unavailable(&gone, "no access token from 127.0.0.1");
    assert_eq!(site.accepted_connections(), 0, "{address}");
}

#[tokio::test]
async fn a_token_request_goes_only_where_checks_may_go() {
    let site = Target::serve_http().await;
    let hosts = [site.address().to_string(), "10.0.0.1".to_owned()];
    let checker = SecretsFile::new(&hosts, true).checker();

    let seen = run(&checker, &request(site.url("/ok"), oauth("http://10.0.0.1/token".to_owned()))).await;

    assert_unavailable(&seen, "checks may not connect to 10.0.0.1");
}

/// A site that repeats what it was sent, in each encoding.
#[tokio::test]
async fn a_message_does_not_repeat_a_secret_that_the_site_repeats() {
    let site = Target::serve_script(|_| {
        let place = format!("ftp://x/{PASSWORD}/MARK%2Dpassword/{LOGIN}");
        vec![Step::send(format!("HTTP/1.1 302 Found\r\nlocation: {place}\r\nconnection: close\r\n\r\n"))]
    })
    .await;
    let file = SecretsFile::for_targets(&[&site]);

    let seen = run(&file.checker(), &request(site.url("/"), bearer())).await;

    let message = seen.message.unwrap();
    assert_eq!(seen.cause, Some(Cause::Redirect), "{message}");
    assert!(message.contains("redirect to 'ftp://x/[redacted]/[redacted]/Basic [redacted]'"), "{message}");
}

#[tokio::test]
async fn a_changed_secret_is_used_by_the_next_check() {
    let region = TestRegion::on_shared_nats("secrets-reload").await;
    let site = Target::serve_http().await;
    let file = SecretsFile::for_targets(&[&site]);
    let prober =
        region.start_ready_with("p1", 4, |config| config.secrets.secrets_file = Some(file.path())).await;
    file.write("broken");
    let refused = "picket_prober_secrets_files_refused_total";
    picket_harness::eventually(STATE_TIMEOUT, "the broken file to be refused", async || {
        match prober.read_metric(refused) {
            count if count > 0.0 => Ok(()),
            count => Err(count),
        }
    })
    .await;
    let check = |id| CheckRequest {
        options: serde_json::from_value(bearer()).unwrap(),
        ..scheduled_request(id, &site.url("/ok"))
    };
    region.publish_request(&scheduled_job_subject(&region.region, SiteId(1)), &check(1)).await;
    assert_eq!(region.read_results(1).await[0].outcome, Outcome::Up);

    let hosts = [site.address().to_string()];
    file.write(&format!("[secret.mark]\nvalue = 'MARK-replaced'\nhosts = {hosts:?}\ninsecure = true\n[secret.more]\nvalue = 'more-more'\n"));
    picket_harness::eventually(STATE_TIMEOUT, "the new file to be loaded", async || {
        match prober.read_metric("picket_prober_secrets") {
            2.0 => Ok(()),
            count => Err(count),
        }
    })
    .await;
    region.publish_request(&scheduled_job_subject(&region.region, SiteId(2)), &check(2)).await;
    region.read_results(2).await;
    let heads = site.received_requests();
    assert!(heads[0].contains(PASSWORD) && heads[1].contains("Bearer MARK-replaced"), "{heads:?}");
}

#[tokio::test]
async fn an_ad_hoc_request_uses_a_secret_only_where_the_prober_allows_it() {
    let site = Target::serve_http().await;
    let file = SecretsFile::for_targets(&[&site]);
    let json = serde_json::to_vec(&request(site.url("/ok"), bearer())).unwrap();
    for (allowed, name) in [(false, "secrets-adhoc-no"), (true, "secrets-adhoc-yes")] {
        let region = TestRegion::on_shared_nats(name).await;
        let secrets = SecretsOptions { secrets_file: Some(file.path()), adhoc_secrets: allowed };
        let _prober = region.start_ready_with("p1", 4, |config| config.secrets = secrets).await;

        let subject = subject::region_check(&region.region);
        let reply = region.bus.client.request(subject, json.clone().into()).await.unwrap();
        let reply: CheckResult = serde_json::from_slice(&reply.payload).unwrap();
        region.publish_payload(&format!("picket.job.{name}.adhoc.7"), &json).await;
        for result in [vec![reply], region.read_results(2).await].concat() {
            match allowed {
                true => assert_eq!(result.outcome, Outcome::Up, "{result:?}"),
                false => {
                    assert_eq!(result.cause, Some(Cause::SecretUnavailable), "{result:?}");
                    let message = result.message.unwrap();
                    assert!(
                        message.contains("options.auth: secret 'mark' is not for ad-hoc requests"),
                        "{message}"
                    );
                }
            }
        }
        assert_eq!(site.accepted_connections(), if allowed { 2 } else { 0 });
    }
}
