//! Stub.
use picket_proto::{ChannelKind, ValidationError};
use serde_json::Value;
use std::time::Duration;
pub struct ChannelSettings;
impl ChannelSettings {
    pub fn parse(_k: ChannelKind, _v: &Value) -> Result<Self, ValidationError> {
        Ok(Self)
    }
}
pub fn default_pace(_k: ChannelKind) -> Duration {
    Duration::ZERO
}
