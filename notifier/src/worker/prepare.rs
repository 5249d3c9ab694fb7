//! From the notices of a lane to messages ready to send.
//!
//! **Bound**: a single lane at a time and a page of notices, so that the memory of a storm is needed once
//! for all channels. Only the messages outlive this step.

use std::{collections::HashMap, time::Duration};

use picket_proto::{Audience, Timestamp};
use picket_runtime::ErrorChain;
use picket_store::lanes::{
    self, ChannelChange, Lane, LaneChannel, LaneContents, LaneWork, NoticeChange, OutageDetails,
};
use serde_json::Value;
use tokio::time::Instant;
use tracing::{debug, warn};
use uuid::Uuid;

use super::{LEASE_TIME, Progress, Worker};
use crate::{
    channel::{ChannelSettings, default_pace},
    compose::{Context, compose, compose_test, list_shown_notices, shown_incident},
    decide::{Decision, PlannedMessage, Storm, decide},
    message::{Message, Purpose},
    pending::PendingMessage,
};

/// Messages to send in a lane.
pub(super) struct Prepared {
    /// Definition and state of the channel.
    pub(super) channel: LaneChannel,
    /// Access to the channel.
    pub(super) access: ChannelAccess,
    /// The database's clock when the lane was read.
    pub(super) now: Timestamp,
    /// The same moment by this machine's clock.
    pub(super) read_at: Instant,
    /// The messages in their order.
    pub(super) messages: Vec<(PendingMessage, Message)>,
}

/// Access to a channel, as far as this build understands the definition.
pub(super) struct ChannelAccess {
    /// The word for the kind in metrics.
    pub(super) kind: &'static str,
    /// Readers.
    pub(super) audience: Audience,
    /// Least time between two messages.
    pub(super) pace: Duration,
    /// Settings, or the words with which each attempt fails because the settings cannot be read.
    pub(super) settings: Result<ChannelSettings, String>,
}

impl ChannelAccess {
    fn read(channel: &LaneChannel) -> Self {
        let own_pace =
            channel.pace_ms.map(|millis| Duration::from_millis(u64::try_from(millis).unwrap_or(0)));
        match channel.known_kind() {
            Some(kind) => Self {
                kind: kind.as_str(),
                audience: kind.audience(),
                pace: own_pace.unwrap_or_else(|| default_pace(kind)),
                settings: ChannelSettings::parse(kind, &channel.settings.0).map_err(|why| why.to_string()),
            },
            None => Self {
                kind: "unknown",
                audience: Audience::People,
                pace: own_pace.unwrap_or_default(),
                settings: Err(format!("kind '{}' is not known to this notifier", channel.kind)),
            },
        }
    }
}

/// Result of a preparation.
pub(super) enum Preparation {
    /// Messages are ready.
    Ready(Box<Prepared>),
    /// The lane has nothing to send.
    Ended(Progress),
}

impl Worker {
    /// Reads the lane, writes the fates of notices not told now, and composes the messages.
    pub(super) async fn prepare_lane(&self, lane: &Lane) -> Result<Preparation, picket_store::Error> {
        // Never closed.
        let _permit = self.preparations.acquire().await;
        let Some(mut contents) = lanes::load_lane(&self.store, lane).await? else {
            return Ok(Preparation::Ended(Progress::Done));
        };
        let read_at = Instant::now();
        let access = ChannelAccess::read(&contents.channel);
        if let Some(test) = find_test(&contents) {
            let attempts = contents.messages.get(&test).map_or(0, |message| message.attempts);
            let mut message = compose_test(test, &contents.channel.name, access.audience, contents.now);
            // Of a notifier that died in the middle.
            message.is_repeat = attempts > 0;
            let messages = vec![(PendingMessage::of_test(test, attempts), message)];
            return Ok(Preparation::ready(contents, read_at, access, messages));
        }
        if Timestamp::from(contents.channel.next_send_at) > contents.now {
            return Ok(Preparation::Ended(Progress::Done));
        }
        let has_unreadable_storm = drop_unreadable_storm(&mut contents);
        let Decision { changes, singles, message, storm } = decide(&contents);
        let planned: Vec<_> = singles.into_iter().chain(message).collect();
        let storm = match storm {
            Some(storm) => Some(serde_json::to_value(storm).unwrap_or_default()),
            None => has_unreadable_storm.then_some(Value::Null),
        };
        let channel = storm.map(|storm| ChannelChange { storm: Some(storm), ..ChannelChange::default() });
        let work = LaneWork { notices: changes, channel, ..LaneWork::default() };
        if !work.is_empty() && !lanes::write_lane_work(&self.store, lane, &work, LEASE_TIME).await? {
            return Ok(Preparation::Ended(Progress::LeaseLost));
        }
        self.count_suppressed(&contents, &work.notices);
        drop(work);
        if planned.is_empty() {
            return Ok(Preparation::Ended(Progress::Done));
        }
        if contents.channel.is_gone {
            return self.fail_all(lane, &planned).await.map(Preparation::Ended);
        }
        let details = self.read_details(&planned).await;
        let mut messages = Vec::with_capacity(planned.len());
        for plan in &planned {
            let message = self.compose_message(lane, &contents, plan, &details).await?;
            messages.push((PendingMessage::of_plan(plan, &contents), message));
        }
        drop(planned);
        Ok(Preparation::ready(contents, read_at, access, messages))
    }

    /// Fails the messages planned for a channel without a receiver.
    async fn fail_all(
        &self,
        lane: &Lane,
        planned: &[PlannedMessage<'_>],
    ) -> Result<Progress, picket_store::Error> {
        let keys = planned.iter().flat_map(|plan| &plan.told).flat_map(|told| &told.keys);
        let notices = keys.map(|key| NoticeChange::fail(key, "channel_problem")).collect();
        let work = LaneWork { notices, ..LaneWork::default() };
        match lanes::write_lane_work(&self.store, lane, &work, LEASE_TIME).await? {
            true => Ok(Progress::More),
            false => Ok(Progress::LeaseLost),
        }
    }

    /// Measurements of the incidents to show, by incident.
    async fn read_details(&self, planned: &[PlannedMessage<'_>]) -> HashMap<i64, OutageDetails> {
        let shown = planned.iter().flat_map(list_shown_notices);
        let incidents: Vec<i64> = shown.filter_map(shown_incident).collect();
        if incidents.is_empty() {
            return HashMap::new();
        }
        match lanes::read_outage_details(&self.store, &incidents).await {
            Ok(details) => details.into_iter().map(|details| (details.incident_id, details)).collect(),
            // A message is sent without them rather than later.
            Err(error) => {
                debug!(error = %ErrorChain(&error), "could not read what checks have measured");
                HashMap::new()
            }
        }
    }

    async fn compose_message(
        &self,
        lane: &Lane,
        contents: &LaneContents,
        plan: &PlannedMessage<'_>,
        details: &HashMap<i64, OutageDetails>,
    ) -> Result<Message, picket_store::Error> {
        // Programs have keys of their own in place of threads.
        let thread = match plan.told.as_slice() {
            [told] if !plan.is_single => {
                lanes::find_thread(&self.store, &lane.channel, &told.notice.subject).await.unwrap_or_default()
            }
            _ => None,
        };
        // The notices of programs have their events in full.
        let events = match plan.is_single {
            true => HashMap::new(),
            false => {
                let shown: Vec<i64> =
                    list_shown_notices(plan).iter().map(|notice| notice.transition_id).collect();
                lanes::read_events(&self.store, &shown).await?
            }
        };
        let earlier = contents.messages.get(&plan.id);
        let is_repeat = plan.may_have_arrived;
        if is_repeat {
            self.metrics.unknown_ends.inc();
        }
        let settings = self.settings.current();
        let context = Context {
            now: contents.now,
            installation: settings.installation_id,
            public_url: self.public_url(),
            details,
            events: &events,
            thread,
            is_repeat,
            receiver_ref: earlier
                .and_then(|message| message.receiver_ref.as_ref())
                .map(|left| left.0.clone()),
        };
        Ok(compose(plan, &context))
    }
}

impl Preparation {
    fn ready(
        contents: LaneContents,
        read_at: Instant,
        access: ChannelAccess,
        messages: Vec<(PendingMessage, Message)>,
    ) -> Self {
        let LaneContents { channel, now, .. } = contents;
        Self::Ready(Box::new(Prepared { channel, access, now, read_at, messages }))
    }
}

/// Drops the state of a storm unreadable for this build; true if there was one. The database's copy is
/// replaced too, so that the state is reported once.
fn drop_unreadable_storm(contents: &mut LaneContents) -> bool {
    let is_unreadable = contents.channel.storm.is_some() && Storm::read(contents).is_none();
    if is_unreadable {
        let storm = contents.channel.storm.take().map(|storm| storm.0.to_string()).unwrap_or_default();
        warn!(channel = contents.channel.name, storm, "the state of a storm cannot be read and is dropped");
    }
    is_unreadable
}

fn find_test(contents: &LaneContents) -> Option<Uuid> {
    let tests = contents.messages.values().filter(|message| message.purpose == Purpose::Test.as_str());
    tests.map(|test| test.notification_id).min()
}
