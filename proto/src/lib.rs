//! Messages between Picket's processes, with their subjects, names and validation.
//!
//! This crate has no async code and no I/O: it describes messages and does not move them. Each
//! module covers one term of the vocabulary. README and ARCHITECTURE describe the same contract for
//! users, section by section.
#![warn(missing_docs)]

pub mod bundle;
pub mod byte_size;
pub mod channel;
pub mod channel_definition;
pub mod channel_setting;
pub mod check;
mod check_options;
mod check_url;
pub mod confirmation;
pub mod credentials;
pub mod duration;
pub mod event;
pub mod features;
mod header_name;
pub mod http_assertions;
pub mod http_options;
pub mod ids;
pub mod job;
pub mod json_path;
pub mod nested_object;
pub mod notification_plan;
pub mod outcome;
pub mod pattern;
pub mod permissions;
pub mod request;
pub mod result;
pub mod result_message;
pub mod route;
pub mod safe_text;
pub mod site;
pub mod site_plan;
pub mod status_ranges;
pub mod subject;
pub mod suggestion;
pub mod tick;
pub mod ticket;
pub mod time;
pub mod validation;

pub use channel::{Audience, ChannelKind};
pub use check::{Check, IpVersion};
pub use confirmation::ConfirmationRequest;
pub use event::Event;
pub use http_assertions::HttpAssertions;
pub use http_options::HttpOptions;
pub use ids::{Epoch, RegionName, Shard, SiteId};
pub use outcome::{Cause, CheckKind, Outcome, Warning};
pub use pattern::Pattern;
pub use permissions::Role;
pub use request::CheckRequest;
pub use result::{CheckResult, Timing};
pub use tick::ScheduledTick;
pub use ticket::{InstallationId, Tickets};
pub use time::Timestamp;
pub use validation::ValidationError;

/// The version of the messages that this build writes (`v` in each message).
///
/// Readers ignore unknown fields, so a new optional field needs no new version. Readers do not
/// reject a higher version either: `v` identifies the writer's format. A change that old readers
/// could not handle would get its own subjects, because old and new processes run side by side
/// during an upgrade.
pub const MESSAGE_VERSION: u32 = 1;
