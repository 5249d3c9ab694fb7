//! Human-readable texts for TLS failures.

use picket_proto::{Timestamp, validation::sanitize_text};
use picket_runtime::redact;
use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible, pki_types::UnixTime};

use super::super::certificate::Certificate;

/// Explains a failure during or after the handshake; `certificate` is the server's, if presented.
pub(in crate::check) fn explain_tls_error(error: &Error, certificate: Option<&Certificate>) -> String {
    match error {
        Error::InvalidCertificate(why) => explain_certificate(why, certificate),
        Error::AlertReceived(alert) => explain_alert(*alert),
        Error::InvalidMessage(_) => "the answer is not TLS".to_owned(),
        Error::PeerIncompatible(why) => explain_incompatible(why),
        Error::NoCertificatesPresented => "the server showed no certificate".to_owned(),
        Error::NoApplicationProtocol => "the server speaks neither HTTP/1.1 nor HTTP/2".to_owned(),
        Error::PeerMisbehaved(why) => format!("the server breaks the rules of TLS ({why:?})"),
        other => other.to_string(),
    }
}

fn explain_certificate(why: &CertificateError, certificate: Option<&Certificate>) -> String {
    match why {
        CertificateError::Expired => "certificate expired".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => {
            let end = to_timestamp(*not_after);
            match certificate.is_none_or(|own| own.expires_at == end) {
                true => format!("certificate expired on {}", format_date(end)),
                false => format!("a certificate of the chain expired on {}", format_date(end)),
            }
        }
        CertificateError::NotValidYet => "certificate is not valid yet".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("certificate is not valid before {}", format_date(to_timestamp(*not_before)))
        }
        CertificateError::UnknownIssuer => explain_unknown_issuer(certificate),
        CertificateError::NotValidForName => "certificate is for another host".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            format!("certificate is for {}, not {}", format_names(presented), expected.to_str())
        }
        CertificateError::BadEncoding => "certificate cannot be read".to_owned(),
        CertificateError::BadSignature => "certificate's signature is wrong".to_owned(),
        CertificateError::Revoked => "certificate was revoked".to_owned(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "certificate is not for servers".to_owned()
        }
        // webpki rejects a self-signed CA certificate before it searches for the issuer.
        _ if certificate.is_some_and(|own| own.is_self_signed) => explain_unknown_issuer(certificate),
        other => format!("certificate is not to be trusted: {other}"),
    }
}

fn explain_unknown_issuer(certificate: Option<&Certificate>) -> String {
    const LONGEST_NAME: usize = 100;
    let Some(own) = certificate else { return "unknown issuer".to_owned() };
    if own.is_self_signed {
        return "certificate is self-signed, by nobody who is trusted".to_owned();
    }
    let issuer = own.issuer.as_deref().map_or("nobody named".to_owned(), |name| {
        format!("'{}'", sanitize_text(&redact(name), LONGEST_NAME))
    });
    match own.is_sent_alone {
        true => format!("unknown issuer: {issuer}, and the server sent no intermediate certificate"),
        false => format!("unknown issuer: {issuer}, whose chain leads to nobody who is trusted"),
    }
}

fn explain_alert(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::ProtocolVersion => explain_no_version(),
        AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => format!(
            "the server refused the TLS handshake ({alert:?}): no cipher in common, or a host that it does not know"
        ),
        AlertDescription::UnrecognisedName => {
            "the server refused the TLS handshake: it does not know the host (UnrecognisedName)".to_owned()
        }
        AlertDescription::CertificateRequired => {
            "the server asks for a client's certificate (CertificateRequired)".to_owned()
        }
        AlertDescription::NoApplicationProtocol => {
            "the server speaks neither HTTP/1.1 nor HTTP/2 (NoApplicationProtocol)".to_owned()
        }
        alert => format!("the server refused the TLS handshake ({alert:?})"),
    }
}

fn explain_incompatible(why: &PeerIncompatible) -> String {
    match why {
        PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
        | PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled
        | PeerIncompatible::SupportedVersionsExtensionRequired => explain_no_version(),
        why => format!("no TLS cipher or key exchange in common with the server ({why:?})"),
    }
}

fn explain_no_version() -> String {
    "no TLS version in common with the server: it speaks neither 1.2 nor 1.3".to_owned()
}

fn to_timestamp(time: UnixTime) -> Timestamp {
    Timestamp::from_millis(i64::try_from(time.as_secs()).unwrap_or(i64::MAX / 1_000).saturating_mul(1_000))
}

fn format_date(moment: Timestamp) -> String {
    let moment = moment.to_offset_datetime();
    format!("{} at {:02}:{:02} UTC", moment.date(), moment.hour(), moment.minute())
}

/// Formats the names of rustls's list, given as `DnsName("a.example")`.
fn format_names(presented: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<&str> = presented
        .iter()
        .take(SHOWN)
        .map(|name| {
            let name = name.split_once('(').map_or(name.as_str(), |(_, inner)| inner);
            name.trim_end_matches(')').trim_matches('"')
        })
        .collect();
    let others = presented.len().saturating_sub(SHOWN);
    match (shown.is_empty(), others) {
        (true, _) => "no name".to_owned(),
        (false, 0) => shown.join(", "),
        (false, _) => format!("{} and {others} more", shown.join(", ")),
    }
}
