//! Stub.
use crate::{attempt::*, message::Message, channel::ChannelSettings, options::DeliveryOptions};
use picket_runtime::secrets::Secrets;
#[derive(Clone)]
pub struct Sender;
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct Error;
impl Sender {
    pub fn new(_o: &DeliveryOptions, _s: Secrets) -> Result<Self, Error> { Ok(Self) }
    pub async fn send(&self, _c: &ChannelSettings, _m: &Message) -> Attempt { Attempt::new(AttemptOutcome::Refused, None, "") }
}
