//! Certificate fields recorded before verification. The parser reads as little as needed, so that
//! unusual certificates are recorded too.

use der::{Decode, Reader, SliceReader, Tag, Tagged, asn1::AnyRef};
use picket_proto::Timestamp;

/// Certificate of the server itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Certificate {
    /// End of validity.
    pub(super) expires_at: Timestamp,
    /// Common name of the issuer, or else its organisation.
    pub(super) issuer: Option<String>,
    /// True if subject and issuer are equal.
    pub(super) is_self_signed: bool,
    /// True if the server sent no intermediate certificate.
    pub(super) is_sent_alone: bool,
}

/// The certificate that ends first, of the server's and of the intermediate ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CertificateEnd {
    pub(super) expires_at: Timestamp,
    /// Serial number, as many bytes as the certificate has.
    pub(super) serial: Box<[u8]>,
    /// Common name of the subject, or else its organisation.
    pub(super) subject: Option<String>,
}

/// Fields of any certificate.
struct CertificateFields<'a> {
    serial: &'a [u8],
    expires_at: Timestamp,
    issuer: AnyRef<'a>,
    subject: Option<AnyRef<'a>>,
}

impl<'a> CertificateFields<'a> {
    fn parse_der(der: &'a [u8]) -> Option<Self> {
        let whole = AnyRef::from_der(der).ok()?;
        let mut outer = SliceReader::new(whole.value()).ok()?;
        let signed = AnyRef::decode(&mut outer).ok()?;
        let mut fields = SliceReader::new(signed.value()).ok()?;
        let first = AnyRef::decode(&mut fields).ok()?;
        // The version is the only tagged field before the serial number. Version 1 certificates
        // omit it.
        let serial = if first.tag() == Tag::Integer { first } else { AnyRef::decode(&mut fields).ok()? };
        let _algorithm = AnyRef::decode(&mut fields).ok()?;
        let issuer = AnyRef::decode(&mut fields).ok()?;
        let validity = AnyRef::decode(&mut fields).ok()?;
        let subject = AnyRef::decode(&mut fields).ok();
        Some(Self { serial: serial.value(), expires_at: parse_expiry(validity)?, issuer, subject })
    }

    /// True if subject and issuer are equal.
    fn is_self_signed(&self) -> bool {
        self.subject.is_some_and(|subject| subject.value() == self.issuer.value())
    }
}

impl Certificate {
    /// Parses `der`, sent with `others` further certificates.
    pub(super) fn parse_der(der: &[u8], others: usize) -> Option<Self> {
        let fields = CertificateFields::parse_der(der)?;
        Some(Self {
            expires_at: fields.expires_at,
            issuer: parse_name(fields.issuer.value()),
            is_self_signed: fields.is_self_signed(),
            is_sent_alone: others == 0,
        })
    }
}

impl CertificateEnd {
    /// Finds the first end in a chain, beginning with the server's certificate. Roots that the
    /// server sent are left out: their end does not matter to clients, which have their own copy.
    pub(super) fn find_first<'a>(
        leaf: &'a [u8],
        intermediates: impl Iterator<Item = &'a [u8]>,
    ) -> Option<Self> {
        let others =
            intermediates.filter_map(CertificateFields::parse_der).filter(|fields| !fields.is_self_signed());
        let first = CertificateFields::parse_der(leaf)
            .into_iter()
            .chain(others)
            .min_by_key(|fields| fields.expires_at)?;
        let subject = first.subject.and_then(|subject| parse_name(subject.value()));
        Some(Self { expires_at: first.expires_at, serial: first.serial.into(), subject })
    }

    /// Whole days from `now` to the end; negative after the end.
    pub(super) fn days_left(&self, now: Timestamp) -> i64 {
        const DAY_MICROS: i64 = 86_400_000_000;
        self.expires_at.as_micros().saturating_sub(now.as_micros()).div_euclid(DAY_MICROS)
    }
}

fn parse_expiry(validity: AnyRef<'_>) -> Option<Timestamp> {
    let mut moments = SliceReader::new(validity.value()).ok()?;
    AnyRef::decode(&mut moments).ok()?;
    let end: AnyRef<'_> = moments.decode().ok()?;
    let since_epoch = match end.tag() {
        Tag::UtcTime => end.decode_as::<der::asn1::UtcTime>().ok()?.to_unix_duration(),
        Tag::GeneralizedTime => end.decode_as::<der::asn1::GeneralizedTime>().ok()?.to_unix_duration(),
        _ => return None,
    };
    Some(Timestamp::from_micros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX)))
}

/// Common name of a distinguished name, or else the organisation.
fn parse_name(distinguished: &[u8]) -> Option<String> {
    const COMMON_NAME: &[u8] = &[0x55, 4, 3];
    const ORGANISATION: &[u8] = &[0x55, 4, 10];
    let mut organisation = None;
    let mut sets = SliceReader::new(distinguished).ok()?;
    while !sets.is_finished() {
        let set = AnyRef::decode(&mut sets).ok()?;
        let mut pairs = SliceReader::new(set.value()).ok()?;
        while !pairs.is_finished() {
            let pair = AnyRef::decode(&mut pairs).ok()?;
            let mut parts = SliceReader::new(pair.value()).ok()?;
            let kind = AnyRef::decode(&mut parts).ok()?;
            let text = AnyRef::decode(&mut parts).ok()?;
            let text = String::from_utf8_lossy(text.value()).into_owned();
            match kind.value() {
                COMMON_NAME => return Some(text),
                ORGANISATION => organisation = Some(text),
                _ => {}
            }
        }
    }
    organisation
}
