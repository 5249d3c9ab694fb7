//! What is said between Picket's processes: messages, subjects, names and their validation.
//!
//! No async and no I/O, so that it stays a description. Each module is one word of the vocabulary; the
//! contract that users type is section by section in the project's README and ARCHITECTURE.
#![warn(missing_docs)]

pub mod bundle;
pub mod check;
pub mod confirmation;
pub mod ids;
pub mod job;
pub mod outcome;
pub mod pattern;
pub mod permissions;
pub mod request;
pub mod result;
pub mod safe_text;
pub mod site;
pub mod status_ranges;
pub mod subject;
pub mod ticket;
pub mod time;
pub mod validation;

pub use check::{Check, IpVersion};
pub use confirmation::ConfirmationRequest;
pub use ids::{Epoch, RegionName, Shard, SiteId};
pub use outcome::{Cause, Kind, Outcome};
pub use pattern::Pattern;
pub use permissions::Role;
pub use request::CheckRequest;
pub use result::{CheckResult, Timing};
pub use ticket::{InstallationId, Tickets};
pub use time::Timestamp;
pub use validation::ValidationError;

/// The version of the messages that this build writes (`v` in each message).
///
/// Readers ignore fields that they do not know, so a new optional field needs no new version. They do not refuse a
/// higher one either: it says who wrote the message. What could not be understood without knowing of the change would
/// get subjects of its own, since old and new processes run side by side during an upgrade.
pub const MESSAGE_VERSION: u32 = 1;
