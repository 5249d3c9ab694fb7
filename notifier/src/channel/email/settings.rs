//! Settings of an e-mail channel.

use std::{fmt, net::IpAddr, path::Path, time::Duration};

use lettre::{Address, message::Mailbox, transport::smtp::extension::ClientId};
use picket_proto::{
    ValidationError,
    http_options::{SecretRef, check_secret_name},
};
use serde::{Deserialize, Serialize};
use url::Host;

use crate::{
    channel::settings::MAX_TIMEOUT_MS,
    template::{self, Markup},
};

/// Maximum number of recipients of a channel.
const MAX_RECIPIENTS: usize = 50;
/// Maximum length of a name or an address.
const MAX_TEXT_BYTES: usize = 320;
const DEFAULT_TIMEOUT_MS: u64 = 20_000;
const MIN_TIMEOUT_MS: u64 = 1_000;

/// Encryption of the connection. A server's certificate is verified always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Security {
    /// TLS after the command STARTTLS, which the server must offer.
    #[default]
    Starttls,
    /// TLS from the first byte.
    Implicit,
    /// No TLS, and no password.
    None,
}

impl Security {
    fn default_port(self) -> u16 {
        match self {
            Self::Starttls => 587,
            Self::Implicit => 465,
            Self::None => 25,
        }
    }
}

/// Settings of an e-mail channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmailSettings {
    /// Host name or address of the server.
    pub host: String,
    /// Port of the server; by default that of `security`: 587, 465 or 25.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Encryption of the connection.
    #[serde(default)]
    pub security: Security,
    /// User to log in as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Password of the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretRef>,
    /// Sender, as `Picket <picket@example.com>`.
    pub from: String,
    /// Recipients, each as `Name <name@example.com>` or the address alone. All are named in the
    /// message.
    pub to: Vec<String>,
    /// Where answers go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// File on the notifier's machine with the certificates (PEM) of the only authorities to trust.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
    /// Maximum time of an attempt at all recipients together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Name by which the notifier introduces itself; by default its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helo: Option<String>,
    /// Template of the subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Template of the text. Without `html_body` the message has no HTML part then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Template of the HTML part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub html_body: Option<String>,
}

/// Sender and recipients, parsed.
pub(super) struct Envelope {
    pub(super) from: Mailbox,
    pub(super) to: Vec<Mailbox>,
    pub(super) reply_to: Option<Mailbox>,
}

impl Envelope {
    pub(super) fn recipients(&self) -> Vec<Address> {
        self.to.iter().map(|mailbox| mailbox.email.clone()).collect()
    }
}

impl EmailSettings {
    /// Checks all settings.
    ///
    /// # Errors
    /// If one cannot be used. The error names it.
    pub fn check(&self) -> Result<(), ValidationError> {
        self.parse_host()?;
        if self.port == Some(0) {
            return Err(ValidationError::new("port", 0, "1 to 65535"));
        }
        self.check_login()?;
        self.parse_envelope()?;
        self.parse_helo()?;
        if let Some(path) = &self.ca_file
            && (!Path::new(path).is_absolute() || path.contains('\0'))
        {
            return Err(ValidationError::new("ca_file", path, "an absolute path on the notifier's machine"));
        }
        if let Some(millis) = self.timeout_ms
            && !(MIN_TIMEOUT_MS..=MAX_TIMEOUT_MS).contains(&millis)
        {
            let allowed = format!("{MIN_TIMEOUT_MS} to {MAX_TIMEOUT_MS}");
            return Err(ValidationError::new("timeout_ms", millis, allowed));
        }
        for (field, source, markup) in [
            ("title", &self.title, Markup::Line),
            ("body", &self.body, Markup::Plain),
            ("html_body", &self.html_body, Markup::Html),
        ] {
            source.as_deref().map_or(Ok(()), |source| template::check_template(field, source, markup))?;
        }
        Ok(())
    }

    /// Names of the secrets that the settings refer to.
    pub fn secret_names(&self) -> impl Iterator<Item = &str> {
        self.password.iter().map(|password| password.secret.as_str())
    }

    fn check_login(&self) -> Result<(), ValidationError> {
        let is_text =
            |text: &str| (1..=MAX_TEXT_BYTES).contains(&text.len()) && !text.chars().any(char::is_control);
        match (&self.user, &self.password) {
            (None, None) => Ok(()),
            (Some(_), _) if self.security == Security::None => Err(ValidationError::new(
                "security",
                "none",
                "starttls or implicit with a user, because a password is never sent without TLS",
            )),
            (Some(user), Some(password)) if is_text(user) => {
                check_secret_name("password.secret", &password.secret)
            }
            (Some(user), Some(_)) => {
                let allowed = format!("1 to {MAX_TEXT_BYTES} bytes without control characters");
                Err(ValidationError::new("user", user, allowed))
            }
            (Some(user), None) => {
                Err(ValidationError::new("user", user, "a user with a password, or neither"))
            }
            (None, Some(_)) => {
                Err(ValidationError::new("password", "(hidden)", "a password with a user, or neither"))
            }
        }
    }

    /// Host of the server; names are in ASCII.
    pub(super) fn parse_host(&self) -> Result<Host<String>, ValidationError> {
        let bare = self.host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        match bare.unwrap_or(&self.host).parse() {
            Ok(IpAddr::V4(address)) => return Ok(Host::Ipv4(address)),
            Ok(IpAddr::V6(address)) => return Ok(Host::Ipv6(address)),
            Err(_) => {}
        }
        let parsed = Host::parse(&self.host).ok().filter(|host| !host.to_string().is_empty());
        parsed.ok_or_else(|| {
            let allowed = "the name or address of a mail server, such as smtp.example.com, without a port";
            ValidationError::new("host", &self.host, allowed)
        })
    }

    pub(super) fn port(&self) -> u16 {
        self.port.unwrap_or(self.security.default_port())
    }

    pub(super) fn timeout(&self) -> Duration {
        let millis = self.timeout_ms.unwrap_or(DEFAULT_TIMEOUT_MS);
        Duration::from_millis(millis.clamp(MIN_TIMEOUT_MS, MAX_TIMEOUT_MS))
    }

    /// Host and port of the server for messages.
    pub(super) fn server_name(&self) -> impl fmt::Display {
        format!("{}:{}", self.host, self.port())
    }

    /// Name to introduce oneself by.
    pub(super) fn parse_helo(&self) -> Result<Option<ClientId>, ValidationError> {
        let Some(name) = &self.helo else { return Ok(None) };
        match Host::parse(name) {
            Ok(Host::Domain(name)) if !name.is_empty() => Ok(Some(ClientId::Domain(name))),
            Ok(Host::Ipv4(address)) => Ok(Some(ClientId::Ipv4(address))),
            Ok(Host::Ipv6(address)) => Ok(Some(ClientId::Ipv6(address))),
            _ => Err(ValidationError::new("helo", name, "a host name, such as monitor.example.com")),
        }
    }

    /// Sender and recipients.
    ///
    /// # Errors
    /// If one is no address.
    pub(super) fn parse_envelope(&self) -> Result<Envelope, ValidationError> {
        if !(1..=MAX_RECIPIENTS).contains(&self.to.len()) {
            let allowed = format!("1 to {MAX_RECIPIENTS} recipients");
            return Err(ValidationError::new("to", format_args!("{} of them", self.to.len()), allowed));
        }
        let to: Vec<_> = self.to.iter().map(|text| parse_mailbox("to", text)).collect::<Result<_, _>>()?;
        for (index, mailbox) in to.iter().enumerate() {
            if to[..index].iter().any(|earlier| earlier.email == mailbox.email) {
                return Err(ValidationError::new("to", &mailbox.email, "each address once"));
            }
        }
        Ok(Envelope {
            from: parse_mailbox("from", &self.from)?,
            to,
            reply_to: self.reply_to.as_deref().map(|text| parse_mailbox("reply_to", text)).transpose()?,
        })
    }
}

/// A mailbox with its domain in ASCII.
fn parse_mailbox(field: &str, text: &str) -> Result<Mailbox, ValidationError> {
    let refusal = || {
        let allowed =
            "an e-mail address, as name@example.com or Name <name@example.com>, with ASCII before the @";
        ValidationError::new(field, text, allowed)
    };
    if text.len() > MAX_TEXT_BYTES || text.chars().any(char::is_control) {
        return Err(refusal());
    }
    let mailbox: Mailbox = text.parse().map_err(|_| refusal())?;
    let (user, domain) = (mailbox.email.user(), mailbox.email.domain());
    if !user.is_ascii() {
        return Err(refusal());
    }
    let domain = match domain.is_ascii() {
        true => domain.to_owned(),
        false => Host::parse(domain).map_err(|_| refusal())?.to_string(),
    };
    let email = Address::new(user, domain).map_err(|_| refusal())?;
    Ok(Mailbox::new(mailbox.name, email))
}
