//! Stub.
use std::time::Duration;
use picket_proto::{ChannelKind, ValidationError};
use serde_json::Value;
pub struct ChannelSettings;
impl ChannelSettings { pub fn parse(_k: ChannelKind, _v: &Value) -> Result<Self, ValidationError> { Ok(Self) } }
pub fn default_pace(_k: ChannelKind) -> Duration { Duration::ZERO }
