//! Tickets: a MAC in each scheduled and confirming job that the result must carry back.
//!
//! The coordinator issues a ticket with a key that probers never hold, the prober copies the
//! ticket, and the sink verifies it. A region's credential is therefore valid only for results of
//! checks that the region was given, and not for a check of another site, region, kind or time.
//! This module is pure: the caller loads the keys from the database.

use std::{borrow::Cow, collections::BTreeMap, fmt, str::FromStr};

use hmac::{Hmac, KeyInit, Mac};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::Sha256;
use uuid::Uuid;

use crate::{CheckKind, RegionName, ScheduledTick, Timestamp, ValidationError};

/// Identity of an installation, which is one database. A migration creates the id; it never
/// changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InstallationId(Uuid);

impl From<Uuid> for InstallationId {
    fn from(id: Uuid) -> Self {
        Self(id)
    }
}

impl fmt::Display for InstallationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl FromStr for InstallationId {
    type Err = ValidationError;

    fn from_str(text: &str) -> Result<Self, ValidationError> {
        Uuid::try_parse(text).map(Self).map_err(|_| {
            ValidationError::new("installation", text, "a UUID, as in picket.settings.installation_id")
        })
    }
}

impl JsonSchema for InstallationId {
    fn schema_name() -> Cow<'static, str> {
        "InstallationId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "uuid" })
    }
}

impl Serialize for InstallationId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_hyphenated().encode_lower(&mut Uuid::encode_buffer()))
    }
}

impl<'de> Deserialize<'de> for InstallationId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = InstallationId;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a UUID")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<InstallationId, E> {
                text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// Number of a key in `picket.ticket_keys`.
pub type TicketKeyId = i16;

/// A ticket. The wire format is the number of the key and the MAC, as 36 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    key: TicketKeyId,
    mac: [u8; Self::MAC_BYTES],
}

impl Ticket {
    /// HMAC-SHA256 truncated to 128 bits.
    const MAC_BYTES: usize = 16;
    const KEY_DIGITS: usize = 4;
    const TICKET_DIGITS: usize = Self::KEY_DIGITS + 2 * Self::MAC_BYTES;
    const HEX_ALPHABET: [u8; 16] = *b"0123456789abcdef";

    /// Appends the hexadecimal digits to `out`.
    fn push_hex(&self, out: &mut String) {
        for byte in self.key.to_be_bytes().into_iter().chain(self.mac) {
            out.push(char::from(Self::HEX_ALPHABET[usize::from(byte >> 4)]));
            out.push(char::from(Self::HEX_ALPHABET[usize::from(byte & 15)]));
        }
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(Self::TICKET_DIGITS);
        self.push_hex(&mut text);
        f.write_str(&text)
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        let digit = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        let digits: &[u8; Self::TICKET_DIGITS] =
            text.as_bytes().try_into().map_err(|_| TicketError::Malformed)?;
        let mut bytes = [0; Self::TICKET_DIGITS / 2];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
            let [high, low] = pair.map(digit);
            *byte = high.zip(low).map(|(high, low)| high << 4 | low).ok_or(TicketError::Malformed)?;
        }
        let mut mac = [0; Self::MAC_BYTES];
        mac.copy_from_slice(&bytes[2..]);
        Ok(Self { key: TicketKeyId::from_be_bytes([bytes[0], bytes[1]]), mac })
    }
}

/// The claims that a ticket binds a result to: a tick and the region that checks it.
#[derive(Clone, Copy, Debug)]
pub struct TicketClaims<'a> {
    /// The tick of the check.
    pub tick: ScheduledTick,
    /// Region that checks the site.
    pub region: &'a RegionName,
}

impl TicketClaims<'_> {
    /// Adds the encoded claims to `mac`. All fields have a fixed width except the region, which
    /// comes last, so no two claims have the same encoding. The encoding has at most 59 bytes, and
    /// at most 55 (one block of SHA-256) for region names of up to 28 bytes.
    fn update_mac(&self, mac: &mut Hmac<Sha256>) {
        const FIXED: usize = 8 + 8 + 8 + 2 + 1;
        let mut fields = [0; FIXED + RegionName::MAX_BYTES];
        fields[..8].copy_from_slice(&self.tick.site.0.to_be_bytes());
        fields[8..16].copy_from_slice(&self.tick.scheduled_at.as_micros().to_be_bytes());
        fields[16..24].copy_from_slice(&self.tick.expires_at.as_micros().to_be_bytes());
        fields[24..26].copy_from_slice(&self.tick.shard.0.to_be_bytes());
        fields[26] = match self.tick.kind {
            CheckKind::Scheduled => 1,
            CheckKind::Confirm => 2,
            CheckKind::Adhoc => 3,
        };
        let region = self.region.as_str().as_bytes();
        fields[FIXED..FIXED + region.len()].copy_from_slice(region);
        mac.update(&fields[..FIXED + region.len()]);
    }
}

/// A key with the state of the MAC after the common prefix of all tickets.
#[derive(Clone)]
struct SigningKey {
    mac_prefix: Hmac<Sha256>,
    retired_at: Option<Timestamp>,
}

impl SigningKey {
    fn sign_claims(&self, key: TicketKeyId, claims: &TicketClaims<'_>) -> Ticket {
        let mut state = self.mac_prefix.clone();
        claims.update_mac(&mut state);
        let whole = state.finalize().into_bytes();
        let mut mac = [0; Ticket::MAC_BYTES];
        mac.copy_from_slice(&whole[..Ticket::MAC_BYTES]);
        Ticket { key, mac }
    }

    fn verify_mac(&self, ticket: &Ticket, claims: &TicketClaims<'_>) -> bool {
        let mut state = self.mac_prefix.clone();
        claims.update_mac(&mut state);
        state.verify_truncated_left(&ticket.mac).is_ok()
    }
}

/// A key as stored in the database.
#[derive(Clone)]
pub struct TicketKey {
    /// Number of the key.
    pub id: TicketKeyId,
    /// 32 random bytes.
    pub secret: Vec<u8>,
    /// Retirement time; tickets of this key are invalid for checks that are due later.
    pub retired_at: Option<Timestamp>,
    /// True if new tickets may be issued with this key. Before, every process must have had time to
    /// load the key, and its retirement if it is retired.
    pub is_usable: bool,
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Reason why a result is not accepted for a check that its region was given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// The result has no ticket.
    #[error("ticket: there is none")]
    Missing,
    /// The field is not a ticket.
    #[error("ticket: allowed are {} hexadecimal digits", Ticket::TICKET_DIGITS)]
    Malformed,
    /// The key is unknown or was removed.
    #[error("ticket: made with key {0}, which is not in picket.ticket_keys")]
    UnknownKey(TicketKeyId),
    /// The check was due after the retirement of the key.
    #[error("ticket: made with key {0} for a check due after the key was retired")]
    KeyRetired(TicketKeyId),
    /// The MAC does not match the installation, site, shard, region, kind, `scheduled_at` and
    /// `expires_at`.
    #[error("ticket: not made for a check of this site, shard, region, kind, scheduled_at and expires_at")]
    MacMismatch,
}

/// Issues and verifies the tickets of one installation.
#[derive(Clone)]
pub struct Tickets {
    installation: InstallationId,
    required: bool,
    keys: BTreeMap<TicketKeyId, SigningKey>,
    current_key: Option<TicketKeyId>,
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { installation, required, current_key: current, .. } = self;
        let mut shown = f.debug_struct("Tickets");
        shown.field("installation", installation).field("required", required).field("current", current);
        shown.finish_non_exhaustive()
    }
}

impl Tickets {
    /// Tickets of `installation`, made with `keys`. If `required` is true, results without a ticket
    /// are rejected.
    pub fn new(installation: InstallationId, required: bool, keys: &[TicketKey]) -> Self {
        /// Start of the signed data, before the installation and padding to one block. The MAC
        /// state after this block is cached, so the prefix costs nothing per ticket.
        const PURPOSE: &[u8; 16] = b"picket ticket v1";
        const BLOCK: usize = 64;

        // The newest usable key signs; older keys stay valid for verification.
        let current_key = keys.iter().filter(|key| key.is_usable).map(|key| key.id).max();
        let keyed = |key: &TicketKey| {
            let mut prefix = [0; BLOCK];
            prefix[..16].copy_from_slice(PURPOSE);
            prefix[16..32].copy_from_slice(installation.0.as_bytes());
            // HMAC accepts keys of any length, so no key is skipped here.
            let mut state = Hmac::<Sha256>::new_from_slice(&key.secret).ok()?;
            state.update(&prefix);
            Some((key.id, SigningKey { mac_prefix: state, retired_at: key.retired_at }))
        };
        Self { installation, required, keys: keys.iter().filter_map(keyed).collect(), current_key }
    }

    /// The installation of these tickets.
    pub fn installation(&self) -> InstallationId {
        self.installation
    }

    /// Returns true if a result without a ticket is rejected.
    pub fn is_required(&self) -> bool {
        self.required
    }

    /// Returns true if there is a key to issue tickets with.
    pub fn has_signing_key(&self) -> bool {
        self.current_key.is_some()
    }

    /// Issues the ticket of a job; `None` without a usable key. The same claims and key yield the
    /// same ticket.
    pub fn issue_ticket(&self, claims: &TicketClaims<'_>) -> Option<Ticket> {
        let id = self.current_key?;
        Some(self.keys.get(&id)?.sign_claims(id, claims))
    }

    /// Appends the fields `installation` and `ticket` of a job, each followed by a comma, to `out`.
    pub(crate) fn render_fields(&self, claims: &TicketClaims<'_>, out: &mut String) {
        out.push_str(r#""installation":""#);
        out.push_str(self.installation.0.as_hyphenated().encode_lower(&mut Uuid::encode_buffer()));
        out.push_str(r#"","#);
        if let Some(ticket) = self.issue_ticket(claims) {
            out.push_str(r#""ticket":""#);
            ticket.push_hex(out);
            out.push_str(r#"","#);
        }
    }

    /// Verifies the ticket of a result. The comparison takes the same time at whatever byte the MAC
    /// differs.
    ///
    /// # Errors
    /// If this installation did not issue the ticket for a check with these claims, or if a
    /// required ticket is missing.
    pub fn verify_ticket(&self, ticket: Option<&str>, claims: &TicketClaims<'_>) -> Result<(), TicketError> {
        let Some(ticket) = ticket else {
            return if self.required { Err(TicketError::Missing) } else { Ok(()) };
        };
        let ticket: Ticket = ticket.parse()?;
        let key = self.keys.get(&ticket.key).ok_or(TicketError::UnknownKey(ticket.key))?;
        // Checks due before the retirement keep valid tickets: their results may still be under
        // way.
        if key.retired_at.is_some_and(|retired_at| claims.tick.scheduled_at > retired_at) {
            return Err(TicketError::KeyRetired(ticket.key));
        }
        if key.verify_mac(&ticket, claims) { Ok(()) } else { Err(TicketError::MacMismatch) }
    }
}

#[cfg(test)]
mod tests;
