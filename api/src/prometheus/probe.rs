//! `GET /probe`: a check now, answered as blackbox_exporter does.

use std::time::Duration;

use axum::{
    extract::{RawQuery, State},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use picket_proto::{Outcome, RegionName, ValidationError, subject};
use picket_runtime::adhoc::{self, RegionReply};
use tokio::time::Instant;
use url::form_urlencoded;

use super::{
    exposition,
    module::{Module, write_metrics},
};
use crate::{
    access::Checker,
    problem::{Problem, ProblemKind},
    state::Api,
};

/// A valid query of a probe.
#[derive(Debug, PartialEq)]
struct ProbeQuery {
    target: String,
    module: Module,
    region: Option<RegionName>,
}

/// Refusal of a probe as plain text, which Prometheus shows as the error of the scrape.
struct ProbeRefusal(StatusCode, String);

impl ProbeRefusal {
    fn bad_request(text: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, text.into())
    }

    /// The check was not made, by no fault of the target. A scrape that fails leaves a gap; the
    /// metric 0 would say that the target is down.
    fn not_checked(why: &str) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, format!("the target was not checked: {why}"))
    }
}

impl From<Problem> for ProbeRefusal {
    fn from(problem: Problem) -> Self {
        Self(problem.status(), problem.detail().to_owned())
    }
}

impl IntoResponse for ProbeRefusal {
    fn into_response(self) -> Response {
        (self.0, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], self.1 + "\n").into_response()
    }
}

/// Checks a target from one prober, of `region` if given.
pub(crate) async fn answer_probe(
    _: Checker,
    State(api): State<Api>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    match probe_target(&api, query.as_deref().unwrap_or_default(), &headers).await {
        Ok(text) => ([(header::CONTENT_TYPE, exposition::CONTENT_TYPE)], text).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

async fn probe_target(api: &Api, query: &str, headers: &HeaderMap) -> Result<String, ProbeRefusal> {
    refuse_other_site(headers)?;
    let query = parse_query(query)?;
    let limits = ProbeLimits::parse(headers)?;
    let request = query.module.build_request(&query.target, limits.check);
    request.validate().map_err(|error| ProbeRefusal::bad_request(error.to_string()))?;
    let Ok(_permit) = api.probe_permits.try_acquire() else {
        return Err(ProbeRefusal::not_checked("too many probes at once"));
    };
    api.require_bus()?;
    let subject = match &query.region {
        Some(region) => subject::region_check(region),
        None => subject::CHECK_ANY_PROBER.to_owned(),
    };
    let began = Instant::now();
    let reply = adhoc::request_check(&api.bus.client, subject, &request, limits.reply).await;
    match reply {
        Ok(RegionReply::Result(result)) if result.outcome == Outcome::Missed => {
            let cause = result.cause.map_or("other", |cause| cause.as_str());
            Err(ProbeRefusal::not_checked(&format!("{cause}: {}", result.message.unwrap_or_default())))
        }
        Ok(RegionReply::Result(result)) => Ok(write_metrics(&result, began.elapsed())),
        Ok(reply) => {
            let place = query.region.map_or_else(|| "any".to_owned(), |region| region.to_string());
            Err(ProbeRefusal::not_checked(&reply.error_message(&place).unwrap_or_default()))
        }
        Err(error) => Err(ProbeRefusal::not_checked(&error.to_string())),
    }
}

/// Refuses a request that a page of another site made its reader's browser send. Such a page could have our
/// probers send requests, since GET is otherwise free of effects and a link sends cookies.
fn refuse_other_site(headers: &HeaderMap) -> Result<(), ProbeRefusal> {
    match headers.get("sec-fetch-site").map(HeaderValue::as_bytes) {
        None | Some(b"same-origin" | b"none") => Ok(()),
        Some(_) => Err(Problem::new(ProblemKind::Forbidden, "the request comes from another website").into()),
    }
}

fn parse_query(query: &str) -> Result<ProbeQuery, ProbeRefusal> {
    let (mut target, mut module, mut region) = (String::new(), Some(Module::Http2xx), None);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "target" => target = value.into_owned(),
            "module" => {
                module = Module::find(&value);
                if module.is_none() {
                    let known = Module::ALL_MODULES.map(Module::as_str).join(", ");
                    return Err(ProbeRefusal::bad_request(format!(
                        "Unknown module {value:?}; there are {known}"
                    )));
                }
            }
            "region" => {
                let parsed = value
                    .parse()
                    .map_err(|error: ValidationError| ProbeRefusal::bad_request(error.to_string()));
                region = Some(parsed?);
            }
            _ => {
                let text = format!("Unknown parameter {name:?}; there are target, module and region");
                return Err(ProbeRefusal::bad_request(text));
            }
        }
    }
    match (target.is_empty(), module) {
        (false, Some(module)) => Ok(ProbeQuery { target, module, region }),
        _ => Err(ProbeRefusal::bad_request("Target parameter is missing")),
    }
}

/// Time limits of a probe.
#[derive(Clone, Copy, Debug, PartialEq)]
struct ProbeLimits {
    /// Of the check.
    check: Duration,
    /// Of the reply, which comes some time after the end of the check.
    reply: Duration,
}

impl ProbeLimits {
    /// Timeout of a scrape without the header, as Prometheus has it by default.
    const DEFAULT_SECONDS: f64 = 10.0;
    /// Shorter than the time after which the server gives up a request.
    const MAX_SECONDS: f64 = 29.0;

    /// Limits within the timeout of the scrape: a check that ends later is an error of the scrape and
    /// tells nothing about the target.
    fn parse(headers: &HeaderMap) -> Result<Self, ProbeRefusal> {
        let seconds = match headers.get("x-prometheus-scrape-timeout-seconds") {
            None => Self::DEFAULT_SECONDS,
            Some(value) => {
                let parsed = value.to_str().ok().and_then(|text| text.parse::<f64>().ok());
                parsed.filter(|seconds| *seconds > 0.0 && seconds.is_finite()).ok_or_else(|| {
                    let text =
                        format!("X-Prometheus-Scrape-Timeout-Seconds: {value:?} is no number of seconds");
                    ProbeRefusal::bad_request(text)
                })?
            }
        };
        let seconds = seconds.min(Self::MAX_SECONDS);
        let margin = (seconds / 4.0).min(1.0);
        Ok(Self {
            check: Duration::from_secs_f64(seconds - margin),
            reply: Duration::from_secs_f64(seconds - margin / 4.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_without_a_module_has_the_default_one() {
        let query =
            parse_query("target=https%3A%2F%2Fexample.com&region=eu").unwrap_or_else(|_| panic!("refused"));

        assert_eq!((query.target.as_str(), query.module), ("https://example.com", Module::Http2xx));
        assert_eq!(query.region, Some("eu".parse().unwrap()));
    }

    #[test]
    fn a_refusal_says_what_is_missing_or_known() {
        for (query, text) in [
            ("module=http_2xx", "Target parameter is missing"),
            ("target=x&module=icmp", "Unknown module \"icmp\"; there are http_2xx, http_post_2xx"),
            ("target=x&region=EU", "region: 'EU' is not allowed"),
            ("target=x&debug=true", "Unknown parameter \"debug\""),
        ] {
            let Err(ProbeRefusal(status, found)) = parse_query(query) else { panic!("{query}") };
            assert_eq!(status, StatusCode::BAD_REQUEST);
            assert!(found.contains(text), "{found}");
        }
    }

    #[test]
    fn a_check_ends_before_its_scrape() {
        let limits = |seconds: &'static str| {
            let headers = HeaderMap::from_iter([(
                http::HeaderName::from_static("x-prometheus-scrape-timeout-seconds"),
                http::HeaderValue::from_static(seconds),
            )]);
            ProbeLimits::parse(&headers)
                .ok()
                .map(|limits| (limits.check.as_millis(), limits.reply.as_millis()))
        };

        assert_eq!(limits("10"), Some((9_000, 9_750)));
        assert_eq!(limits("1"), Some((750, 937)));
        assert_eq!(limits("1e9"), Some((28_000, 28_750)));
        for bad in ["0", "-1", "x", "inf", "NaN"] {
            assert_eq!(limits(bad), None, "{bad}");
        }
    }
}
