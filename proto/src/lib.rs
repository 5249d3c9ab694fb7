//! What is said between Picket's processes: messages, subjects, names and their validation.
//!
//! No async and no I/O, so that it stays a description. Each module is one word of the vocabulary; the
//! contract that users type is section by section in the project's README and ARCHITECTURE.
#![warn(missing_docs)]

pub mod bundle;
pub mod check;
pub mod id;
pub mod invalid;
pub mod job;
pub mod outcome;
pub mod pattern;
pub mod plain;
pub mod request;
pub mod result;
pub mod role;
pub mod site;
pub mod status;
pub mod subject;
pub mod suspect;
pub mod ticket;
pub mod time;

pub use check::{Check, IpVersion};
pub use id::{Epoch, Region, Shard, SiteId};
pub use invalid::Invalid;
pub use outcome::{Cause, Kind, Outcome};
pub use pattern::Pattern;
pub use request::CheckRequest;
pub use result::{CheckResult, Timing};
pub use role::Role;
pub use suspect::Suspect;
pub use ticket::{InstallationId, Tickets};
pub use time::Timestamp;

/// The version of the messages that this build writes (`v` in each message).
///
/// Readers ignore fields that they do not know, so a new optional field needs no new version. They do not refuse a
/// higher one either: it says who wrote the message. What could not be understood without knowing of the change would
/// get subjects of its own, since old and new processes run side by side during an upgrade.
pub const VERSION: u32 = 1;
