//! What becomes of each notice, whatever else is told.

use std::{collections::HashMap, time::Duration};

use picket_proto::Timestamp;
use picket_store::lanes::{LaneContents, LaneNotice, NoticeStep};
use serde_json::Value;

use super::PlannedItem;
use picket_proto::duration::describe_duration;

use crate::message::Verdict;

/// Openings of a site within an hour that make it flapping.
const FLAPPING_OPENINGS: i64 = 3;
/// Time without a change after which a flapping site is steady.
pub(crate) const CALM_TIME: Duration = Duration::from_secs(30 * 60);
/// Age of a closed incident beyond which people are not told any more.
const STALE_TIME: Duration = Duration::from_secs(60 * 60);
/// Time until a notice whose beginning is not among those read is looked at again.
const RETRY_TIME: Duration = Duration::from_secs(5);
/// Time until what waits for a paused channel, or a route without active hours in the coming week, is looked
/// at again.
const INACTIVE_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// What becomes of a notice.
#[derive(Clone, Debug)]
pub(super) enum Fate<'a> {
    /// It is told as soon as its group is ready.
    Notify(PlannedItem<'a>),
    /// It ends untold.
    Suppress(&'static str),
    /// It waits until then; for what, if not for its time.
    Wait(Timestamp, Option<&'static str>),
}

/// The fate of each notice of a lane, in order of recording. A notice that is told together with
/// another has no entry.
pub(super) fn decide_fates(contents: &LaneContents) -> Vec<(&LaneNotice, Fate<'_>)> {
    let mut fates: Vec<(&LaneNotice, Fate<'_>)> = Vec::with_capacity(contents.notices.len());
    // Places of beginnings that wait here, by subject.
    let mut begun: HashMap<&str, usize> = HashMap::new();
    let is_paused = !contents.channel.enabled;
    for notice in &contents.notices {
        let fate = if let Some(until) = notice.blocked_until.map(Timestamp::from)
            && until > contents.now
            && !is_paused
        {
            // An earlier event about the same subject is attempted first.
            Fate::Wait(until, None)
        } else {
            match (notice.step, notice.is_end) {
                (NoticeStep::Event, false) => decide_beginning(notice, contents.now, is_paused),
                (NoticeStep::Event, true) => {
                    match begun.get(notice.subject.as_str()).map(|place| &mut fates[*place].1) {
                        // One line tells both.
                        Some(Fate::Notify(told)) if is_for_people(notice) => {
                            told.verdict = Verdict::of_both(told.notice, notice);
                            told.notice = notice;
                            told.attempted = told
                                .attempted
                                .or_else(|| notice.notification_id.map(|id| (id, notice.due_at.into())));
                            told.keys.push(notice.key());
                            continue;
                        }
                        Some(Fate::Suppress(reason)) => Fate::Suppress(reason),
                        // Programs are told of the beginning first.
                        Some(Fate::Notify(_)) => plan_item(notice, Verdict::of_notice(notice)),
                        Some(Fate::Wait(until, reason)) => Fate::Wait(*until, *reason),
                        None => decide_end(notice, contents.now, is_paused),
                    }
                }
                (NoticeStep::Reminder | NoticeStep::Escalation, _) => {
                    decide_later(notice, contents.now, is_paused)
                }
                (NoticeStep::Calm, _) => decide_calm(notice, contents.now, is_paused),
            }
        };
        if notice.step == NoticeStep::Event && !notice.is_end {
            begun.insert(&notice.subject, fates.len());
        }
        fates.push((notice, fate));
    }
    fates
}

fn is_for_people(notice: &LaneNotice) -> bool {
    notice.group_key.is_some()
}

fn plan_item(notice: &LaneNotice, verdict: Verdict) -> Fate<'_> {
    plan_item_with_note(notice, verdict, None)
}

fn plan_item_with_note(notice: &LaneNotice, verdict: Verdict, note: Option<String>) -> Fate<'_> {
    let attempted = notice.notification_id.map(|id| (id, Timestamp::from(notice.due_at)));
    Fate::Notify(PlannedItem { verdict, notice, keys: vec![notice.key()], note, attempted })
}

/// The wait of a paused channel, for silence or for the route's hours; `None` if it may be told now.
fn find_quiet(notice: &LaneNotice, now: Timestamp, is_paused: bool) -> Option<(Timestamp, &'static str)> {
    if is_paused {
        // Resuming the channel has it looked at.
        return Some((now.saturating_add(INACTIVE_TIME), "channel_paused"));
    }
    if let Some(until) = notice.silenced_until {
        return Some((until.into(), "silenced"));
    }
    match notice.active_from.map(Timestamp::from) {
        Some(from) if from <= now => None,
        Some(from) => Some((from, "outside_hours")),
        None => Some((now.saturating_add(INACTIVE_TIME), "outside_hours")),
    }
}

fn decide_beginning(notice: &LaneNotice, now: Timestamp, is_paused: bool) -> Fate<'_> {
    let recorded = Timestamp::from(notice.recorded_at);
    let held = notice.reason.as_deref();
    if let Some(ended) = notice.other_recorded_at.map(Timestamp::from) {
        let lasted = ended.saturating_duration_since(recorded);
        let wait = if is_for_people(notice) { wait_time(notice) } else { Duration::ZERO };
        // An attempt may have reached the receiver.
        let is_attempted = notice.notification_id.is_some();
        return match held {
            Some("silenced") if !is_attempted => Fate::Suppress("silenced"),
            Some("outside_hours") if !is_attempted => Fate::Suppress("outside_hours"),
            Some("channel_paused") if !is_attempted => Fate::Suppress("channel_paused"),
            _ if is_paused && !is_attempted => Fate::Suppress("channel_paused"),
            _ if is_paused => Fate::Wait(now.saturating_add(INACTIVE_TIME), Some("channel_paused")),
            _ if !is_attempted && notice.silenced_until.is_some() => Fate::Suppress("silenced"),
            _ if !is_attempted && lasted < delay_time(notice) + wait => Fate::Suppress("brief"),
            _ if !is_for_people(notice) => plan_item(notice, Verdict::of_notice(notice)),
            _ if is_flapping(notice) => Fate::Suppress("flapping"),
            _ if now.saturating_duration_since(ended) > STALE_TIME => Fate::Suppress("stale"),
            _ => plan_item(notice, Verdict::WasDown),
        };
    }
    if let Some((until, reason)) = find_quiet(notice, now, is_paused) {
        return Fate::Wait(until, Some(reason));
    }
    if is_for_people(notice) && notice.event == "incident.opened" {
        if notice.is_flapping {
            return Fate::Suppress("flapping");
        }
        if notice.recent_openings >= FLAPPING_OPENINGS {
            let note = format!(
                "{} times within an hour: no single change is told until it has been steady for {}",
                notice.recent_openings,
                describe_duration(CALM_TIME)
            );
            return plan_item_with_note(notice, Verdict::Flapping, Some(note));
        }
    }
    let note = match held {
        Some("silenced") => Some("silenced until now".to_owned()),
        Some("outside_hours") => Some("held back until the hours of the route".to_owned()),
        Some("channel_paused") => Some("held back while the channel was paused".to_owned()),
        _ => None,
    };
    plan_item_with_note(notice, Verdict::of_notice(notice), note)
}

fn is_flapping(notice: &LaneNotice) -> bool {
    notice.is_flapping || notice.recent_openings > FLAPPING_OPENINGS
}

fn decide_end(notice: &LaneNotice, now: Timestamp, is_paused: bool) -> Fate<'_> {
    // The channel knows that the site flapped, or that it was down once it was steady.
    let is_known = notice.begun_reason.as_deref() == Some("flapping") && !notice.is_flapping;
    match notice.begun_state.as_deref() {
        Some("suppressed") if !is_known => Fate::Suppress(known_reason(notice.begun_reason.as_deref())),
        _ if is_paused => Fate::Wait(now.saturating_add(INACTIVE_TIME), Some("channel_paused")),
        Some("suppressed") => plan_item(notice, Verdict::of_notice(notice)),
        Some("waiting") => Fate::Wait(now.saturating_add(RETRY_TIME), None),
        state => {
            // Programs close at once what they know to be open.
            if is_for_people(notice)
                && let Some((until, reason)) = find_quiet(notice, now, is_paused)
            {
                return Fate::Wait(until, Some(reason));
            }
            if is_for_people(notice) && notice.is_flapping {
                return Fate::Suppress("flapping");
            }
            match state {
                Some("failed") if is_for_people(notice) => plan_item(notice, Verdict::WasDown),
                _ => plan_item(notice, Verdict::of_notice(notice)),
            }
        }
    }
}

/// The same reason with the lifetime of a constant.
fn known_reason(reason: Option<&str>) -> &'static str {
    const REASONS: [&str; 7] =
        ["brief", "silenced", "flapping", "stale", "outside_hours", "channel_paused", "closed_not_sent"];
    REASONS.into_iter().find(|known| Some(*known) == reason).unwrap_or("beginning_not_told")
}

/// A reminder or a step of escalation.
fn decide_later(notice: &LaneNotice, now: Timestamp, is_paused: bool) -> Fate<'_> {
    if notice.other_recorded_at.is_some() {
        return Fate::Suppress("closed");
    }
    if notice.is_acknowledged {
        return Fate::Suppress("acknowledged");
    }
    if Timestamp::from(notice.due_at) > now {
        return Fate::Wait(notice.due_at.into(), None);
    }
    let is_reminder = notice.step == NoticeStep::Reminder;
    if let Some((until, reason)) = find_quiet(notice, now, is_paused) {
        return Fate::Wait(until, Some(reason));
    }
    if is_reminder && notice.is_flapping {
        return Fate::Suppress("flapping");
    }
    let lasting = describe_duration(now.saturating_duration_since(notice.recorded_at.into()));
    let note = match is_reminder {
        true => format!("still so after {lasting}"),
        false => format!("nobody has acknowledged for {lasting}"),
    };
    plan_item_with_note(notice, Verdict::of_notice(notice), Some(note))
}

/// A site that was flapping: told once it has not changed for a time.
fn decide_calm(notice: &LaneNotice, now: Timestamp, is_paused: bool) -> Fate<'_> {
    let changed = notice.site_changed_at.map_or(notice.recorded_at, |at| at);
    let calm = Timestamp::from(changed).saturating_add(CALM_TIME);
    if calm > now {
        return Fate::Wait(calm, None);
    }
    if let Some((until, reason)) = find_quiet(notice, now, is_paused) {
        return Fate::Wait(until, Some(reason));
    }
    let verdict = if notice.is_site_down { Verdict::Down } else { Verdict::Up };
    let note = format!("steady for {} after it went down and up often", describe_duration(CALM_TIME));
    plan_item_with_note(notice, verdict, Some(note))
}

/// Wait of the route to collect further beginnings.
pub(super) fn wait_time(notice: &LaneNotice) -> Duration {
    const DEFAULT_WAIT_MS: i32 = 10_000;
    let millis = notice.wait_ms.unwrap_or(DEFAULT_WAIT_MS);
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// Time for which it must last to be told.
pub(super) fn delay_time(notice: &LaneNotice) -> Duration {
    Duration::from_millis(u64::try_from(notice.delay_ms).unwrap_or(0))
}

impl Verdict {
    /// The verdict of a notice's event.
    fn of_notice(notice: &LaneNotice) -> Self {
        Self::of_event(&notice.event, &notice.payload)
    }

    /// The verdict of what began and ended without being told in between.
    fn of_both(begun: &LaneNotice, ended: &LaneNotice) -> Self {
        match Self::of_notice(ended) {
            Self::Up if begun.event == "incident.opened" => Self::WasDown,
            verdict => verdict,
        }
    }

    /// The verdict of an event.
    pub(crate) fn of_event(event: &str, payload: &Value) -> Self {
        let is_unwatched = payload.get("unwatched").and_then(Value::as_bool) == Some(true);
        match event {
            "warning.opened" | "certificate.expiring" => Self::Warns,
            "warning.closed" => Self::WarningOver,
            "region.silent" => Self::Silent,
            "region.back" => Self::Back,
            "channel.failing" => Self::Failing,
            "channel.working" => Self::Working,
            "ledger.unaccounted" => Self::Unaccounted,
            "incident.closed" if is_unwatched => Self::Unwatched,
            "incident.closed" => Self::Up,
            _ => Self::Down,
        }
    }
}
