//! What becomes of each notice, whatever else is told.

use std::{collections::HashMap, time::Duration};

use picket_proto::{Timestamp, duration::describe_duration};
use picket_store::lanes::{LaneContents, LaneNotice, NoticeStep};
use serde_json::Value;

use super::PlannedItem;
use crate::message::Verdict;

/// Openings of a site within an hour that make it flapping.
const FLAPPING_OPENINGS: i64 = 3;
/// Time without a change after which a flapping site is steady.
pub(crate) const CALM_TIME: Duration = Duration::from_secs(30 * 60);
/// Age of a closed incident beyond which people are not told any more.
const STALE_TIME: Duration = Duration::from_secs(60 * 60);
/// Time until a notice whose beginning is not among those read is looked at again.
const RETRY_TIME: Duration = Duration::from_secs(5);
/// Time until a route without active hours in the coming week is looked at again.
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
    // Places of the sites that are told here to be flapping.
    let mut flapping: HashMap<i64, usize> = HashMap::new();
    let is_paused = !contents.channel.enabled;
    for notice in &contents.notices {
        let begun_place = begun.get(notice.subject.as_str()).copied();
        let fate = if let Some(until) = notice.blocked_until.map(Timestamp::from)
            && until > contents.now
            && !is_paused
        {
            // An earlier event about the same subject is attempted first.
            Fate::Wait(until, None)
        } else {
            match (notice.step, notice.is_end) {
                (NoticeStep::Event, false) => decide_beginning(notice, contents),
                (NoticeStep::Event, true) => match begun_place.map(|place| &mut fates[place].1) {
                    // One line tells both.
                    Some(Fate::Notify(told)) if is_for_people(notice) => {
                        add_end(told, notice);
                        continue;
                    }
                    Some(Fate::Suppress(reason)) => Fate::Suppress(reason),
                    // Programs are told of the beginning first.
                    Some(Fate::Notify(_)) => plan_item(notice, Verdict::of_notice(notice)).into(),
                    Some(Fate::Wait(until, reason)) => Fate::Wait(*until, *reason),
                    None => decide_end(notice, contents.now, is_paused),
                },
                (NoticeStep::Reminder | NoticeStep::Escalation, _) => {
                    decide_later(notice, contents.now, is_paused)
                }
                (NoticeStep::Calm, _) => decide_calm(notice, contents.now, is_paused),
                (NoticeStep::Acknowledgement, _) => match begun_place.map(|place| &fates[place].1) {
                    Some(Fate::Wait(until, _)) => Fate::Wait(*until, None),
                    Some(Fate::Suppress(_)) => Fate::Suppress("beginning_not_told"),
                    Some(Fate::Notify(_)) | None => decide_acknowledgement(notice, contents.now, is_paused),
                },
            }
        };
        let fate = match fate {
            Fate::Notify(told) if told.verdict == Verdict::Flapping => {
                let site = notice.site_id.unwrap_or(notice.transition_id);
                match flapping.get(&site).and_then(|place| fates.get_mut(*place)) {
                    // One line tells of all changes of the site.
                    Some((_, Fate::Notify(first))) => {
                        first.headline = told.headline;
                        Fate::Suppress("flapping")
                    }
                    _ => {
                        flapping.insert(site, fates.len());
                        Fate::Notify(told)
                    }
                }
            }
            fate => fate,
        };
        if notice.step == NoticeStep::Event && !notice.is_end {
            begun.insert(&notice.subject, fates.len());
        }
        fates.push((notice, fate));
    }
    fates
}

/// Tells of an end in the line of its beginning.
fn add_end<'a>(told: &mut PlannedItem<'a>, end: &'a LaneNotice) {
    told.verdict = match (told.verdict, Verdict::of_both(told.notice, end)) {
        (Verdict::Flapping, Verdict::WasDown) => Verdict::Flapping,
        (_, verdict) => {
            (told.headline, told.note, told.lasting) = (None, None, None);
            verdict
        }
    };
    told.notice = end;
    told.attempted = told.attempted.or_else(|| end.notification_id.map(|id| (id, end.due_at.into())));
    told.keys.push(end.key());
}

fn is_for_people(notice: &LaneNotice) -> bool {
    notice.group_key.is_some()
}

fn plan_item(notice: &LaneNotice, verdict: Verdict) -> PlannedItem<'_> {
    let attempted = notice.notification_id.map(|id| (id, Timestamp::from(notice.due_at)));
    PlannedItem {
        verdict,
        notice,
        keys: vec![notice.key()],
        note: None,
        headline: None,
        lasting: None,
        attempted,
    }
}

impl From<(Timestamp, &'static str)> for Fate<'_> {
    fn from((until, reason): (Timestamp, &'static str)) -> Self {
        Self::Wait(until, Some(reason))
    }
}

impl<'a> From<PlannedItem<'a>> for Fate<'a> {
    fn from(told: PlannedItem<'a>) -> Self {
        Self::Notify(told)
    }
}

/// The wait of a paused channel, for silence or for the route's hours; `None` if it may be told now.
fn find_quiet(notice: &LaneNotice, now: Timestamp, is_paused: bool) -> Option<(Timestamp, &'static str)> {
    if is_paused {
        return Some(wait_for_resumption(now));
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

fn is_outside_hours(notice: &LaneNotice, now: Timestamp) -> bool {
    notice.active_from.is_none_or(|from| Timestamp::from(from) > now)
}

/// Resuming the channel has its notices looked at before.
fn wait_for_resumption(now: Timestamp) -> (Timestamp, &'static str) {
    (now.saturating_add(INACTIVE_TIME), "channel_paused")
}

fn decide_beginning<'a>(notice: &'a LaneNotice, contents: &LaneContents) -> Fate<'a> {
    let (now, is_paused) = (contents.now, !contents.channel.enabled);
    let recorded = Timestamp::from(notice.recorded_at);
    let held = notice.reason.as_deref();
    let is_flapping = is_for_people(notice)
        && notice.event == "incident.opened"
        && notice.recent_openings >= FLAPPING_OPENINGS;
    if let Some(ended) = notice.other_recorded_at.map(Timestamp::from) {
        let lasted = ended.saturating_duration_since(recorded);
        let wait = if is_for_people(notice) { wait_time(notice) } else { Duration::ZERO };
        // An attempt may have reached the receiver.
        let is_attempted = notice.notification_id.is_some();
        let message = notice.notification_id.and_then(|id| contents.messages.get(&id));
        let is_end_unknown = message.is_some_and(|message| message.is_end_unknown);
        return match held {
            Some("silenced") if !is_attempted => Fate::Suppress("silenced"),
            Some("outside_hours") if !is_attempted => Fate::Suppress("outside_hours"),
            // Looked at for the first time when it is over, such as after a time without notifiers.
            None if !is_attempted && is_outside_hours(notice, now) => Fate::Suppress("outside_hours"),
            Some("channel_paused") if !is_attempted => Fate::Suppress("channel_paused"),
            _ if is_paused && !is_attempted => Fate::Suppress("channel_paused"),
            _ if is_paused => wait_for_resumption(now).into(),
            _ if !is_attempted && notice.silenced_until.is_some() => Fate::Suppress("silenced"),
            _ if !is_attempted && lasted < delay_time(notice) + wait => Fate::Suppress("brief"),
            // Tried again after a failure. A service would keep it open for ever, and people know of it.
            _ if notice.end_state.as_deref() == Some("delivered") => Fate::Suppress("closed"),
            _ if !is_for_people(notice) => plan_item(notice, Verdict::of_notice(notice)).into(),
            _ if notice.is_flapping => Fate::Suppress("flapping"),
            _ if !is_end_unknown && now.saturating_duration_since(ended) > STALE_TIME => {
                Fate::Suppress("stale")
            }
            _ if is_flapping => plan_flapping(notice, now).into(),
            _ => plan_item(notice, Verdict::WasDown).into(),
        };
    }
    if let Some((until, reason)) = find_quiet(notice, now, is_paused) {
        return Fate::Wait(until, Some(reason));
    }
    if is_for_people(notice) && notice.event == "incident.opened" && notice.is_flapping {
        return Fate::Suppress("flapping");
    }
    if is_flapping {
        return plan_flapping(notice, now).into();
    }
    let (note, lasting) = match held {
        Some("silenced") => ("silenced until now", "silenced until now"),
        Some("outside_hours") => {
            ("it began outside the active hours of the route", "outside your hours until now")
        }
        Some("channel_paused") => ("held back while the channel was paused", "paused until now"),
        _ => return plan_item(notice, Verdict::of_notice(notice)).into(),
    };
    let told = plan_item(notice, Verdict::of_notice(notice));
    PlannedItem { note: Some(note.to_owned()), lasting: Some(lasting), ..told }.into()
}

/// A site that goes down and up often, with its state at this moment.
fn plan_flapping(notice: &LaneNotice, now: Timestamp) -> PlannedItem<'_> {
    let state = if notice.is_site_down { "down" } else { "up" };
    let down = Duration::from_millis(u64::try_from(notice.flap_down_ms).unwrap_or(0));
    let headline = format!("{}; {state} now", describe_flaps(notice, now, down));
    let note = format!(
        "no single change of the site is told until it has been steady for {}",
        describe_duration(CALM_TIME)
    );
    PlannedItem { note: Some(note), headline: Some(headline), ..plan_item(notice, Verdict::Flapping) }
}

/// `3 times in 40 min, down 9 min of it`.
fn describe_flaps(notice: &LaneNotice, until: Timestamp, down: Duration) -> String {
    let since = notice.flap_since.map_or(until, Timestamp::from);
    let (span, times) = (until.saturating_duration_since(since), notice.recent_openings);
    format!("{times} times in {}, down {} of it", describe_duration(span), describe_duration(down))
}

fn decide_end(notice: &LaneNotice, now: Timestamp, is_paused: bool) -> Fate<'_> {
    // The channel knows that the site flapped, or that it was down once it was steady.
    let is_known = notice.begun_reason.as_deref() == Some("flapping") && !notice.is_flapping;
    // It was attempted before, and may be open there.
    let may_be_open = !is_for_people(notice) && notice.begun_notification.is_some();
    match notice.begun_state.as_deref() {
        Some("suppressed") if !is_known && !may_be_open => {
            Fate::Suppress(known_reason(notice.begun_reason.as_deref()))
        }
        _ if is_paused => wait_for_resumption(now).into(),
        Some("suppressed") => plan_item(notice, Verdict::of_notice(notice)).into(),
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
            match (state, Verdict::of_notice(notice)) {
                (Some("failed"), Verdict::Up) if is_for_people(notice) => {
                    plan_item(notice, Verdict::WasDown).into()
                }
                (_, verdict) => plan_item(notice, verdict).into(),
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
    let told = plan_item(notice, Verdict::of_notice(notice));
    match is_reminder {
        true => PlannedItem { lasting: Some(""), ..told },
        false => {
            let lasting = now.saturating_duration_since(notice.recorded_at.into());
            let note = format!("nobody has acknowledged it for {}", describe_duration(lasting));
            PlannedItem { note: Some(note), lasting: Some("unacknowledged"), ..told }
        }
    }
    .into()
}

/// An acknowledgement, for a service with acknowledgements of its own.
fn decide_acknowledgement(notice: &LaneNotice, now: Timestamp, is_paused: bool) -> Fate<'_> {
    if notice.other_recorded_at.is_some() {
        return Fate::Suppress("closed");
    }
    if is_paused {
        return wait_for_resumption(now).into();
    }
    match notice.is_acknowledged {
        true => plan_item(notice, Verdict::of_notice(notice)).into(),
        false => Fate::Suppress("withdrawn"),
    }
}

/// A site that was flapping: told once it has not changed for a time.
fn decide_calm(notice: &LaneNotice, now: Timestamp, is_paused: bool) -> Fate<'_> {
    let changed = Timestamp::from(notice.site_changed_at.unwrap_or(notice.recorded_at));
    let calm = changed.saturating_add(CALM_TIME);
    if calm > now {
        return Fate::Wait(calm, None);
    }
    if let Some((until, reason)) = find_quiet(notice, now, is_paused) {
        return Fate::Wait(until, Some(reason));
    }
    let last = notice.last_change.as_ref().map(|payload| &payload.0);
    let verdict = match last {
        _ if notice.is_site_down => Verdict::Down,
        Some(payload) => Verdict::of_event("incident.closed", payload),
        None => Verdict::Up,
    };
    let steady = now.saturating_duration_since(changed);
    let down = Duration::from_millis(u64::try_from(notice.flap_down_ms).unwrap_or(0));
    // The outage that lasts is none of the flapping.
    let down = if notice.is_site_down { down.saturating_sub(steady) } else { down };
    let (state, steady) =
        (if notice.is_site_down { "still down" } else { "steady" }, describe_duration(steady));
    let headline =
        format!("{state} for {steady}, after it flapped {}", describe_flaps(notice, changed, down));
    PlannedItem { headline: Some(headline), ..plan_item(notice, verdict) }.into()
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
