//! Whether a notifier runs, and what is left undecided while none does.

use serde::Serialize;
use sqlx::FromRow;

use super::NOTIFICATIONS_TIMEOUT;
use crate::{DbTimestamp, Error, Store};

/// Notifiers by their signs of life, and the events that they have still to decide.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, FromRow)]
pub struct NotifierPresence {
    /// Number of notifiers that were alive in the last two minutes.
    pub running: i64,
    /// Time when a notifier was last alive; absent if none was within a day.
    pub last_seen_at: Option<DbTimestamp>,
    /// Number of events without a decision of a notifier about their channels.
    pub undecided: i64,
}

impl NotifierPresence {
    /// The absence of a notifier with its consequence and its remedy; `None` while a notifier runs.
    pub fn describe_absence(&self) -> Option<String> {
        if self.running > 0 {
            return None;
        }
        let last = self.last_seen_at.map_or_else(String::new, |at| {
            let at = at.0.to_string();
            format!(" (the last one was alive at {} UTC)", at.get(..19).unwrap_or(&at).replace('T', " "))
        });
        let undecided = match self.undecided {
            0 => String::new(),
            1 => ", and 1 event waits for one".to_owned(),
            some => format!(", and {some} events wait for one"),
        };
        Some(format!(
            "no notifier runs{last}, so nobody is told of incidents{undecided}; start picket-notifier, or 'picket up'"
        ))
    }
}

/// Reads which notifiers run. With `incident`, only events of that incident count as undecided.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn read_notifier_presence(store: &Store, incident: Option<i64>) -> Result<NotifierPresence, Error> {
    let read = select_presence(store, incident);
    store.with_timeout(NOTIFICATIONS_TIMEOUT, "look for notifiers", read).await
}

pub(super) async fn select_presence(
    store: &Store,
    incident: Option<i64>,
) -> Result<NotifierPresence, sqlx::Error> {
    sqlx::query_as(
        "SELECT (SELECT count(*) FROM picket.notifiers WHERE seen_at > clock_timestamp() - interval '2 minutes') AS running,
                (SELECT max(seen_at) FROM picket.notifiers) AS last_seen_at,
                (SELECT count(*) FROM picket.transitions
                 WHERE planned_at IS NULL AND ($1::bigint IS NULL OR incident_id = $1)) AS undecided",
    )
    .bind(incident)
    .fetch_one(&store.pool)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absence_is_described_with_its_consequence_and_its_remedy_and_presence_is_not() {
        let presence = |running, undecided| NotifierPresence {
            running,
            last_seen_at: Some(DbTimestamp("2026-11-20T12:00:00Z".parse().unwrap())),
            undecided,
        };

        assert_eq!(presence(1, 7).describe_absence(), None);
        assert_eq!(
            presence(0, 2).describe_absence().unwrap(),
            "no notifier runs (the last one was alive at 2026-11-20 12:00:00 UTC), so nobody is told of incidents, and 2 \
             events wait for one; start picket-notifier, or 'picket up'"
        );
        let never = NotifierPresence::default().describe_absence().unwrap();
        assert!(never.starts_with("no notifier runs, so nobody is told of incidents; start"), "{never}");
    }
}
