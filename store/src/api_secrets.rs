//! Secrets of the API: random texts, of which the database has the SHA-256 only.

use sha2::{Digest, Sha256};

/// A secret of 190 random bits, shown once.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiSecret(String);

impl ApiSecret {
    /// Number of random characters after the prefix.
    const RANDOM_CHARS: usize = 32;
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    /// Maximum length of a text that can be a secret.
    pub(crate) const MAX_LENGTH: usize = 64;

    /// Generates a secret that begins with `prefix`, by which people and scanners recognise its kind.
    pub(crate) fn generate(prefix: &str) -> Self {
        let mut text = prefix.to_owned();
        let mut bytes = [0; 64];
        while text.len() < prefix.len() + Self::RANDOM_CHARS {
            // A machine whose random numbers fail must not make secrets.
            getrandom::fill(&mut bytes).expect("the operating system provides random numbers");
            // 248 is the largest multiple of 62 in a byte: beyond it, some characters would be more
            // frequent.
            let fair = bytes.iter().filter(|byte| **byte < 248);
            let missing = prefix.len() + Self::RANDOM_CHARS - text.len();
            text.extend(
                fair.take(missing).map(|byte| char::from(Self::ALPHABET[usize::from(*byte) % Self::ALPHABET.len()])),
            );
        }
        Self(text)
    }

    /// The secret in the clear.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub(crate) fn hash(&self) -> [u8; 32] {
        hash_secret(&self.0)
    }
}

impl std::fmt::Debug for ApiSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiSecret(hidden)")
    }
}

/// The hash under which the database has a secret. A row is found by its hash, so that no time of a
/// comparison depends on the secret.
pub(crate) fn hash_secret(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_secret_has_its_prefix_and_32_characters_that_no_other_has() {
        let secrets: HashSet<String> =
            (0..1_000).map(|_| ApiSecret::generate("pkt_").reveal().to_owned()).collect();

        assert_eq!(secrets.len(), 1_000);
        for secret in &secrets {
            let random = secret.strip_prefix("pkt_").unwrap();
            assert!(random.len() == 32 && random.chars().all(|c| c.is_ascii_alphanumeric()), "{secret}");
        }
        let used: HashSet<char> = secrets.iter().flat_map(|secret| secret[4..].chars()).collect();
        assert_eq!(used.len(), 62, "each character of the alphabet occurs");
    }

    #[test]
    fn the_debug_text_of_a_secret_is_not_the_secret() {
        assert_eq!(format!("{:?}", ApiSecret::generate("pkt_")), "ApiSecret(hidden)");
    }
}
