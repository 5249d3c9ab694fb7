//! Signatures of Standard Webhooks: HMAC-SHA256 with a shared secret, and Ed25519 with a key pair.

use aws_lc_rs::{
    hmac,
    signature::{Ed25519KeyPair, KeyPair},
};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use picket_runtime::{SecretUnavailable, SecretValue};
use zeroize::Zeroizing;

/// Bytes of a shared secret.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Bytes of the seed of a key pair, and of a seed with its public key.
const SEED_BYTES: usize = 32;
const PAIR_BYTES: usize = 64;

/// Signature `v1` of `signed` by the secret `value`, named `name`.
pub(super) fn sign_by_secret(
    name: &str,
    value: &SecretValue,
    signed: &[u8],
) -> Result<String, SecretUnavailable> {
    let allowed = "allowed: whsec_ and 24 to 64 bytes in base64";
    let key = decode_key(name, value, "whsec_", allowed)?;
    if !SECRET_BYTES.contains(&key.len()) {
        return Err(SecretUnavailable::Unusable(name.to_owned(), allowed.to_owned()));
    }
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    Ok(format!("v1,{}", BASE64_STANDARD.encode(hmac::sign(&key, signed))))
}

/// Signature `v1a` of `signed` by the private key `value`, named `name`.
pub(super) fn sign_by_key(
    name: &str,
    value: &SecretValue,
    signed: &[u8],
) -> Result<String, SecretUnavailable> {
    let allowed = "allowed: whsk_ and an Ed25519 private key in base64: 32 bytes, or 64 with the public key";
    let refuse = || SecretUnavailable::Unusable(name.to_owned(), allowed.to_owned());
    let key = decode_key(name, value, "whsk_", allowed)?;
    let pair = Ed25519KeyPair::from_seed_unchecked(key.get(..SEED_BYTES).ok_or_else(refuse)?);
    let pair = pair.map_err(|_| refuse())?;
    let is_complete = match key.len() {
        SEED_BYTES => true,
        PAIR_BYTES => key[SEED_BYTES..] == *pair.public_key().as_ref(),
        _ => false,
    };
    match is_complete {
        true => Ok(format!("v1a,{}", BASE64_STANDARD.encode(pair.sign(signed)))),
        false => Err(refuse()),
    }
}

fn decode_key(
    name: &str,
    value: &SecretValue,
    prefix: &str,
    allowed: &str,
) -> Result<Zeroizing<Vec<u8>>, SecretUnavailable> {
    let encoded = value.expose_text().trim();
    let encoded = encoded.strip_prefix(prefix);
    let key = encoded.and_then(|encoded| BASE64_STANDARD.decode(encoded).ok());
    key.map(Zeroizing::new).ok_or_else(|| SecretUnavailable::Unusable(name.to_owned(), allowed.to_owned()))
}
