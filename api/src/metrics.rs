//! Metrics of the API.

use std::{
    fmt::Write,
    sync::atomic::{AtomicI64, AtomicU64},
};

use picket_runtime::{AddMetric, Health};
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
};

use crate::live::LiveMetrics;

#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) requests: Family<RequestLabels, Counter<u64, AtomicU64>>,
    pub(crate) request_seconds: Histogram,
    pub(crate) connections: Gauge<i64, AtomicI64>,
    pub(crate) live: LiveMetrics,
    refusals: Family<RefusalLabels, Counter<u64, AtomicU64>>,
    first_checks: Family<FirstCheckLabels, Counter<u64, AtomicU64>>,
}

/// Labels of answered requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    /// Route with its parameters' names, which bounds the number of label values.
    pub(crate) route: String,
    pub(crate) method: &'static str,
    pub(crate) status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    reason: Refusal,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FirstCheckLabels {
    outcome: FirstCheckOutcome,
}

/// What became of the first check of a new site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FirstCheckOutcome {
    Requested,
    /// Left out, because many others run.
    TooMany,
    /// Left out, because NATS is away.
    BusAway,
}

impl FirstCheckOutcome {
    const ALL_OUTCOMES: [Self; 3] = [Self::Requested, Self::TooMany, Self::BusAway];
}

impl EncodeLabelValue for FirstCheckOutcome {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), std::fmt::Error> {
        encoder.write_str(match self {
            Self::Requested => "requested",
            Self::TooMany => "too_many",
            Self::BusAway => "bus_away",
        })
    }
}

/// Reasons to refuse what a limit forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Refusal {
    /// A connection was closed in favour of a new one.
    ConnectionEvicted,
    /// The head of a request did not arrive in time, or was no HTTP.
    InvalidHead,
    /// A body did not arrive in time.
    BodyTimedOut,
    /// A body was larger than allowed.
    BodyTooLarge,
    /// A response was not ready in time.
    TimedOut,
    /// A request of another website.
    CrossSite,
    /// A token or session that is not valid.
    InvalidCredential,
    /// Too many attempts to sign in.
    SignInLimit,
    /// Too many ad-hoc checks.
    AdhocLimit,
    /// Too many requests with tokens or sessions that have not been valid lately.
    FailureLimit,
    /// Too many validations of sites at once.
    ValidationLimit,
    /// Too many reports and ledgers at once.
    ReportLimit,
}

impl EncodeLabelValue for Refusal {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), std::fmt::Error> {
        encoder.write_str(match self {
            Self::ConnectionEvicted => "connection_evicted",
            Self::InvalidHead => "invalid_head",
            Self::BodyTimedOut => "body_timed_out",
            Self::BodyTooLarge => "body_too_large",
            Self::TimedOut => "timed_out",
            Self::CrossSite => "cross_site",
            Self::InvalidCredential => "invalid_credential",
            Self::SignInLimit => "sign_in_limit",
            Self::AdhocLimit => "adhoc_limit",
            Self::FailureLimit => "failure_limit",
            Self::ValidationLimit => "validation_limit",
            Self::ReportLimit => "report_limit",
        })
    }
}

impl Refusal {
    const ALL_REASONS: [Self; 12] = [
        Self::ConnectionEvicted,
        Self::InvalidHead,
        Self::BodyTimedOut,
        Self::BodyTooLarge,
        Self::TimedOut,
        Self::CrossSite,
        Self::InvalidCredential,
        Self::SignInLimit,
        Self::AdhocLimit,
        Self::FailureLimit,
        Self::ValidationLimit,
        Self::ReportLimit,
    ];
}

impl Metrics {
    pub(crate) fn new(health: &Health) -> Self {
        let mut registry = health.registry();
        let registry = registry.sub_registry_with_prefix("api");
        Self {
            requests: registry.add_metric("requests", "Answered requests, by route, method and status"),
            request_seconds: registry.add_histogram(
                "request_duration_seconds",
                "Time from the head of a request to the head of its response",
                exponential_buckets(0.001, 2.0, 15),
            ),
            connections: registry.add_metric("connections", "Open connections"),
            live: LiveMetrics::register(registry),
            refusals: registry
                .add_metric("refusals", "Connections, requests and credentials that were refused, by reason"),
            first_checks: registry
                .add_metric("first_checks", "New sites, by whether their first check was requested at once"),
        }
    }

    pub(crate) fn count_first_check(&self, outcome: FirstCheckOutcome) {
        self.first_checks.get_or_create(&FirstCheckLabels { outcome }).inc();
    }

    pub(crate) fn count_refusal(&self, reason: Refusal) {
        self.refusals.get_or_create(&RefusalLabels { reason }).inc();
    }
}

/// Registers the metrics of an API process, each with a series with `placeholder` as labels, for their
/// reference.
pub fn describe_metrics(health: &Health, placeholder: &str) {
    let metrics = Metrics::new(health);
    let labels = RequestLabels { route: placeholder.to_owned(), method: "GET", status: 200 };
    let _ = metrics.requests.get_or_create(&labels);
    for reason in Refusal::ALL_REASONS {
        let _ = metrics.refusals.get_or_create(&RefusalLabels { reason });
    }
    for outcome in FirstCheckOutcome::ALL_OUTCOMES {
        let _ = metrics.first_checks.get_or_create(&FirstCheckLabels { outcome });
    }
}
