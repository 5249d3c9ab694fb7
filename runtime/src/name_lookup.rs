//! Lookups of host names by the system's resolver, and words for their failures.

use std::{
    io,
    net::{IpAddr, ToSocketAddrs},
    sync::Arc,
};

/// Function that resolves a host name; may block its thread.
pub type Lookup = Arc<dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync>;

/// Description of a lookup that no name server answered.
pub const UNANSWERED_REASON: &str = "the name servers did not answer";

/// Resolves with the system's resolver.
pub fn system_lookup() -> Lookup {
    Arc::new(|host| Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect()))
}

/// Error text of the system without its preamble.
pub fn describe_lookup_error(why: &io::Error) -> String {
    let text = why.to_string();
    let reason = text.rsplit(": ").next().unwrap_or(&text);
    match reason {
        "Name or service not known" => "there is no such name".to_owned(),
        "No address associated with hostname" => "the name has no address".to_owned(),
        "Temporary failure in name resolution" => UNANSWERED_REASON.to_owned(),
        other => other.to_owned(),
    }
}
