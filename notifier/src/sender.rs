//! Stub.
use crate::{attempt::*, channel::ChannelSettings, message::Message};
use picket_runtime::secrets::Secrets;
pub struct Sender;
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct SenderError;
#[derive(Default)]
pub struct SenderOptions {
    pub allowed_networks: Vec<ipnet::IpNet>,
    pub ca_file: Option<std::path::PathBuf>,
}
impl Sender {
    pub fn new(_o: SenderOptions, _s: Secrets) -> Result<Self, SenderError> {
        Ok(Self)
    }
    pub async fn send(&self, _c: &ChannelSettings, _m: &Message) -> Attempt {
        Attempt::new(AttemptOutcome::Refused, None, "")
    }
    pub async fn send_batch(&self, _c: &ChannelSettings, _m: &[Message]) -> Attempt {
        Attempt::new(AttemptOutcome::Refused, None, "")
    }
    pub async fn ping(&self, _c: &ChannelSettings, _f: Option<&str>) -> Option<Attempt> {
        None
    }
}
