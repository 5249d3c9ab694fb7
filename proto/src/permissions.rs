//! The roles of the system, and the NATS permissions of each role: exactly the subjects that its
//! code uses.
//!
//! A NATS server with these permissions rejects all other subjects. The permissions stand beside
//! the subjects, so that a new subject is not added without its permissions.

use std::{fmt, str::FromStr};

use crate::{
    RegionName, ValidationError,
    subject::{
        self, EVENTS_STREAM, JOBS_STREAM, NOTIFIER_CONSUMER, PROBER_SERVICE, RESULTS_STREAM, SINK_CONSUMER,
        SINK_REPLAY_CONSUMER,
    },
};

/// JetStream domain of the hub. Only clients behind leaf nodes need the name.
pub const JETSTREAM_DOMAIN: &str = "hub";

/// A role of the system. On a bus with credentials, each role has users of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Schedules checks, publishes jobs, and reconciles the streams.
    Coordinator,
    /// Stores results, publishes events.
    Sink,
    /// Tells people and programs of events.
    Notifier,
    /// Shows results and events, and forwards requests.
    Api,
    /// A person with `picket` or another client, who may inspect everything and request checks.
    Operator,
    /// Has all permissions within the account, for repairs. No Picket process uses this role.
    Admin,
    /// Performs the checks of one region.
    Prober(RegionName),
    /// A leaf node in one region, through which its probers connect to the hub. A leaf node has the
    /// permissions of these probers, and may answer requests.
    Leaf(RegionName),
}

/// A subject that a role may publish to or subscribe to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectPermission {
    /// The subject, with wildcards. In a subscription, the only allowed queue group may follow
    /// after a blank.
    pub subject: String,
    /// Reason for the permission.
    pub purpose: &'static str,
}

/// All permissions of a role on the bus.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Subjects that the role may publish to.
    pub publish: Vec<SubjectPermission>,
    /// Subjects that the role may subscribe to.
    pub subscribe: Vec<SubjectPermission>,
    /// True if the role may answer each received request once, on any reply subject.
    pub allow_responses: bool,
}

impl Role {
    /// The roles that do not belong to a region.
    pub const GLOBAL_ROLES: [Self; 6] =
        [Self::Coordinator, Self::Sink, Self::Notifier, Self::Api, Self::Operator, Self::Admin];

    /// Prefix of the role's inboxes. Each role has its own, so that no role can subscribe to the
    /// replies of another.
    ///
    /// Operators use the default prefix of NATS clients, because any client must work without
    /// configuration.
    pub fn inbox_prefix(&self) -> String {
        match self {
            Self::Operator | Self::Admin => subject::DEFAULT_INBOX_PREFIX.to_owned(),
            // A leaf node subscribes to the inboxes of the probers behind it.
            Self::Leaf(region) => Self::Prober(region.clone()).inbox_prefix(),
            other => format!("{}_{other}", subject::DEFAULT_INBOX_PREFIX),
        }
    }

    /// The permissions of this role.
    pub fn permissions(&self) -> Permissions {
        let mut rights = Permissions::default();
        match self {
            Self::Coordinator => rights.grant_coordinator(),
            Self::Sink => rights.grant_sink(),
            Self::Notifier => rights.grant_notifier(),
            Self::Api => rights.grant_api(),
            Self::Operator => rights.grant_operator(),
            Self::Admin => {
                return Permissions {
                    publish: vec![SubjectPermission { subject: ">".to_owned(), purpose: "anything" }],
                    subscribe: vec![SubjectPermission { subject: ">".to_owned(), purpose: "anything" }],
                    allow_responses: false,
                };
            }
            Self::Prober(region) => rights.grant_prober(region),
            Self::Leaf(region) => rights.grant_leaf(region),
        }
        rights.allow_subscribe(format!("{}.>", self.inbox_prefix()), "replies to its requests");
        rights
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator => f.pad("coordinator"),
            Self::Sink => f.pad("sink"),
            Self::Notifier => f.pad("notifier"),
            Self::Api => f.pad("api"),
            Self::Operator => f.pad("operator"),
            Self::Admin => f.pad("admin"),
            Self::Prober(region) => f.pad(&subject::prober_consumer(region)),
            Self::Leaf(region) => f.pad(&format!("leaf-{region}")),
        }
    }
}

impl FromStr for Role {
    type Err = ValidationError;

    fn from_str(name: &str) -> Result<Self, ValidationError> {
        if let Some(role) = Self::GLOBAL_ROLES.into_iter().find(|role| role.to_string() == name) {
            return Ok(role);
        }
        let of_region = |prefix| name.strip_prefix(prefix).and_then(|region: &str| region.parse().ok());
        let role = of_region("prober-").map(Self::Prober).or_else(|| of_region("leaf-").map(Self::Leaf));
        role.ok_or_else(|| {
            let allowed =
                "coordinator, sink, notifier, api, operator, admin, prober-<region> or leaf-<region>";
            ValidationError::new("user", name, allowed)
        })
    }
}

impl Permissions {
    fn allow_publish(&mut self, subject: impl Into<String>, why: &'static str) {
        self.publish.push(SubjectPermission { subject: subject.into(), purpose: why });
    }

    fn allow_subscribe(&mut self, subject: impl Into<String>, why: &'static str) {
        self.subscribe.push(SubjectPermission { subject: subject.into(), purpose: why });
    }

    /// Allows a call of the JetStream API, which is a request on a subject.
    fn allow_jetstream_api(&mut self, call: impl fmt::Display, why: &'static str) {
        self.allow_publish(format!("$JS.API.{call}"), why);
    }

    fn grant_coordinator(&mut self) {
        self.allow_publish(subject::JOB_SUBJECTS, "publish due jobs");
        self.allow_subscribe(subject::CONFIRMATION_SUBJECTS, "confirmation requests");
        for stream in [JOBS_STREAM, RESULTS_STREAM, EVENTS_STREAM] {
            self.allow_jetstream_api(format_args!("STREAM.INFO.{stream}"), "check that the stream exists");
            self.allow_jetstream_api(format_args!("STREAM.CREATE.{stream}"), "create the stream");
            self.allow_jetstream_api(format_args!("STREAM.UPDATE.{stream}"), "update its settings");
        }
        // The filter is part of the subject, and the server compares it with the filter in the
        // request.
        self.allow_jetstream_api(
            format_args!("CONSUMER.CREATE.{JOBS_STREAM}.*.{}", subject::JOB_SUBJECTS),
            "create a region's consumer",
        );
        self.allow_jetstream_api(
            format_args!("CONSUMER.INFO.{JOBS_STREAM}.*"),
            "detect regions without active probers",
        );
        self.allow_jetstream_api(
            format_args!("CONSUMER.INFO.{RESULTS_STREAM}.{SINK_CONSUMER}"),
            "count the results that wait for a sink",
        );
        self.allow_jetstream_api(
            format_args!("STREAM.MSG.GET.{RESULTS_STREAM}"),
            "read the age of the oldest result",
        );
    }

    fn grant_sink(&mut self) {
        self.allow_publish(subject::EVENT_SUBJECTS, "publish events of the outbox");
        self.allow_publish(subject::CONFIRMATION_SUBJECTS, "request confirmation checks");
        for stream in [RESULTS_STREAM, EVENTS_STREAM] {
            self.allow_jetstream_api(format_args!("STREAM.INFO.{stream}"), "check that the stream exists");
            self.allow_jetstream_api(
                format_args!("STREAM.CREATE.{stream}"),
                "create the stream if no coordinator has",
            );
        }
        let consumer = format!("{RESULTS_STREAM}.{SINK_CONSUMER}");
        self.allow_jetstream_api(
            format_args!("CONSUMER.CREATE.{consumer}.{}", subject::RESULT_SUBJECTS),
            "create its consumer",
        );
        self.allow_jetstream_api(
            format_args!("CONSUMER.INFO.{consumer}"),
            "check its consumer, and count waiting results",
        );
        self.allow_jetstream_api(format_args!("CONSUMER.MSG.NEXT.{consumer}"), "pull results");
        let replay = format!("{RESULTS_STREAM}.{SINK_REPLAY_CONSUMER}");
        self.allow_jetstream_api(
            format_args!("CONSUMER.CREATE.{replay}.{}", subject::RESULT_SUBJECTS),
            "replay results that the database lost",
        );
        self.allow_jetstream_api(format_args!("CONSUMER.MSG.NEXT.{replay}"), "pull results to replay");
        self.allow_jetstream_api(
            format_args!("CONSUMER.DELETE.{replay}"),
            "delete the consumer after the replay",
        );
        self.allow_publish(format!("$JS.ACK.{consumer}.>"), "acknowledge results");
    }

    fn grant_notifier(&mut self) {
        let consumer = format!("{EVENTS_STREAM}.{NOTIFIER_CONSUMER}");
        self.allow_jetstream_api(format_args!("STREAM.INFO.{EVENTS_STREAM}"), "check that the stream exists");
        self.allow_jetstream_api(
            format_args!("CONSUMER.CREATE.{consumer}.{}", subject::EVENT_SUBJECTS),
            "create its consumer",
        );
        self.allow_jetstream_api(format_args!("CONSUMER.INFO.{consumer}"), "measure its lag");
        self.allow_jetstream_api(format_args!("CONSUMER.MSG.NEXT.{consumer}"), "pull events");
        self.allow_publish(format!("$JS.ACK.{consumer}.>"), "acknowledge events");
    }

    fn grant_api(&mut self) {
        self.allow_publish("picket.check.*", "request checks");
        self.allow_publish(format!("$SRV.*.{PROBER_SERVICE}"), "discover probers");
        self.allow_subscribe(subject::RESULT_SUBJECTS, "results, live");
        self.allow_subscribe(subject::EVENT_SUBJECTS, "events, live");
    }

    fn grant_operator(&mut self) {
        self.allow_publish("picket.check.*", "request checks");
        self.allow_publish("picket.job.*.adhoc.>", "queue ad-hoc checks");
        self.allow_publish("$SRV.>", "discover services (nats micro)");
        for call in ["INFO", "STREAM.LIST", "STREAM.NAMES", "STREAM.INFO.*"] {
            self.allow_jetstream_api(call, "inspect streams");
        }
        for call in ["CONSUMER.LIST.*", "CONSUMER.NAMES.*", "CONSUMER.INFO.*.*"] {
            self.allow_jetstream_api(call, "inspect consumers");
        }
        for call in ["STREAM.MSG.GET.*", "DIRECT.GET.>"] {
            self.allow_jetstream_api(call, "inspect stored messages");
        }
        self.allow_subscribe(subject::RESULT_SUBJECTS, "results, live");
        self.allow_subscribe(subject::EVENT_SUBJECTS, "events, live");
        self.allow_subscribe("picket.rejected.*", "rejected requests");
    }

    /// A leaf node acts as one user for all its probers. Two rules differ from a prober's. Leaf
    /// nodes name the JetStream domain. The server does not track over a leaf node connection which
    /// replies are expected, so the inboxes must be listed.
    fn grant_leaf(&mut self, region: &RegionName) {
        self.grant_prober(region);
        // Outside of the hub, the JetStream API is reachable only under the name of its domain.
        for right in &mut self.publish {
            right.subject = right.subject.replace("$JS.API.", &format!("$JS.{JETSTREAM_DOMAIN}.API."));
        }
        // The server forwards no subscription over this connection that is allowed for a single
        // queue group only.
        for right in &mut self.subscribe {
            right.subject.truncate(right.subject.find(' ').unwrap_or(right.subject.len()));
        }
        self.allow_responses = false;
        self.allow_publish(format!("{}.>", Role::Operator.inbox_prefix()), "replies to operators");
        self.allow_publish(format!("{}.>", Role::Api.inbox_prefix()), "replies to the API");
    }

    /// No subject may be both published to and subscribed to. A prober with such a subject could
    /// send a request to itself, with any subject as the reply subject, and answer there.
    fn grant_prober(&mut self, region: &RegionName) {
        let consumer = format!("{JOBS_STREAM}.{}", subject::prober_consumer(region));
        self.allow_publish(subject::pull_next_subject(region), "pull jobs of its region");
        self.allow_publish(format!("$JS.ACK.{consumer}.>"), "acknowledge jobs");
        self.allow_publish(format!("picket.result.{region}.*"), "publish results");
        self.allow_publish(subject::rejected_request(region), "rejected requests");
        let (own, any) = (subject::region_queue_group(region), subject::ANY_QUEUE_GROUP);
        self.allow_subscribe(format!("{} {own}", subject::region_check(region)), "requests to its region");
        self.allow_subscribe(format!("{} {own}", subject::CHECK_ALL_REGIONS), "requests to all regions");
        self.allow_subscribe(format!("{} {any}", subject::CHECK_ANY_PROBER), "requests to any prober");
        for service_subject in
            ["$SRV.*".to_owned(), format!("$SRV.*.{PROBER_SERVICE}"), format!("$SRV.*.{PROBER_SERVICE}.*")]
        {
            self.allow_subscribe(service_subject, "discovery of its service");
        }
        self.allow_responses = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Role> {
        let regions = ["eu", "us"].map(|region| Role::Prober(region.parse().unwrap()));
        [Role::GLOBAL_ROLES.to_vec(), regions.to_vec()].concat()
    }

    #[test]
    fn the_name_of_a_role_reads_back() {
        for role in all().into_iter().chain([Role::Leaf("eu".parse().unwrap())]) {
            assert_eq!(role.to_string().parse::<Role>().unwrap(), role);
        }
        for bad in ["", "prober", "prober-", "prober-EU", "prober-any", "leaf-", "root"] {
            assert_eq!(bad.parse::<Role>().unwrap_err().field, "user", "{bad}");
        }
    }

    #[test]
    fn no_role_can_subscribe_to_anothers_replies() {
        for (one, other) in all().into_iter().flat_map(|one| all().into_iter().map(move |b| (one.clone(), b)))
        {
            let inbox = format!("{}.x", other.inbox_prefix());
            let hears = one.permissions().subscribe.iter().any(|right| matches(&right.subject, &inbox));
            let is_allowed =
                one == other || one == Role::Admin || other == Role::Admin && one == Role::Operator;
            assert_eq!(hears, is_allowed, "{one} {inbox}");
        }
    }

    #[test]
    fn a_prober_has_no_permission_for_another_region_and_cannot_request_checks() {
        let eu = Role::Prober("eu".parse().unwrap()).permissions();
        let us = Role::Prober("us".parse().unwrap()).permissions();

        for (mine, other) in [(&eu.publish, &us.publish), (&eu.subscribe, &us.subscribe)] {
            let subject =
                |right: &SubjectPermission| right.subject.split(' ').next().unwrap_or_default().to_owned();
            for right in other.iter().filter(|right| subject(right).contains("us")) {
                assert!(!mine.iter().any(|allowed| matches(&subject(allowed), &subject(right))), "{right:?}");
            }
        }
        for said in &eu.publish {
            for heard in &eu.subscribe {
                let heard = heard.subject.split(' ').next().unwrap_or_default();
                let (said, heard) = (said.subject.split('.'), heard.split('.'));
                let overlap =
                    said.zip(heard).all(|(a, b)| a == b || [a, b].iter().any(|t| ["*", ">"].contains(t)));
                assert!(!overlap, "both published and subscribed");
            }
        }
    }

    #[test]
    fn a_leaf_node_has_its_probers_permissions_and_may_answer_requests() {
        let region: RegionName = "eu".parse().unwrap();
        let (prober, leaf) = (Role::Prober(region.clone()).permissions(), Role::Leaf(region).permissions());

        let heard = |rights: &Permissions| -> Vec<String> {
            let subjects = rights.subscribe.iter().map(|right| right.subject.split(' ').next());
            subjects.flatten().map(str::to_owned).collect()
        };
        assert_eq!(heard(&leaf), heard(&prober));
        let more: Vec<_> = leaf.publish.iter().filter(|right| !prober.publish.contains(right)).collect();
        let more: Vec<_> = more.iter().map(|right| right.subject.replace(".hub.", ".")).collect();
        let mut known = prober.publish.iter().map(|right| right.subject.clone()).collect::<Vec<_>>();
        known.extend(["_INBOX.>", "_INBOX_api.>"].map(str::to_owned));
        assert!(more.iter().all(|subject| known.contains(subject)), "{more:?}");
    }

    /// Whether `pattern` covers `subject`, which may have wildcards itself.
    fn matches(pattern: &str, subject: &str) -> bool {
        let (mut pattern, mut subject) = (pattern.split('.'), subject.split('.'));
        loop {
            match (pattern.next(), subject.next()) {
                (Some(">"), Some(_)) | (None, None) => return true,
                (Some("*"), Some(token)) if token != ">" => {}
                (Some(a), Some(b)) if a == b => {}
                _ => return false,
            }
        }
    }
}
