//! How a person is named, from the claims of the ID token and of the user information.

/// Claims of one source about a person.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PersonClaims {
    pub(super) email: Option<String>,
    /// Absent if the provider says nothing of it, which is no verification.
    pub(super) is_email_verified: Option<bool>,
    pub(super) username: Option<String>,
}

impl PersonClaims {
    /// The address, if the provider has verified that it is the person's. Anybody may enter another's address.
    fn verified_email(&self) -> Option<&String> {
        self.email.as_ref().filter(|_| self.is_email_verified == Some(true))
    }

    /// The verified address, or else the name of the account.
    pub(super) fn choose_name(&self) -> Option<String> {
        self.verified_email().or(self.username.as_ref()).cloned()
    }

    /// These claims, and for what they lack those of another source. An address is taken together with its
    /// verification, since one source does not verify the address of the other.
    pub(super) fn or(self, other: Self) -> Self {
        let username = self.username.clone().or_else(|| other.username.clone());
        let source = if self.verified_email().is_some() { self } else { other };
        Self { username, ..source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(email: &str, is_email_verified: Option<bool>, username: Option<&str>) -> PersonClaims {
        PersonClaims {
            email: Some(email.to_owned()),
            is_email_verified,
            username: username.map(str::to_owned),
        }
    }

    #[test]
    fn an_unverified_address_names_no_person_whichever_source_has_it() {
        for unverified in [None, Some(false)] {
            let alone = claims("boss@example.com", unverified, None);
            assert_eq!(alone.choose_name(), None);
            assert_eq!(PersonClaims::default().or(alone.clone()).choose_name(), None);
            let named = claims("boss@example.com", unverified, Some("mallory"));
            assert_eq!(named.choose_name().as_deref(), Some("mallory"));
            // The other source verifies its own address only.
            let merged = alone.or(claims("mallory@example.com", Some(true), None));
            assert_eq!(merged.choose_name().as_deref(), Some("mallory@example.com"));
        }
    }

    #[test]
    fn a_verified_address_names_the_person_whichever_source_has_it() {
        let verified = claims("ann@example.com", Some(true), Some("ann"));

        assert_eq!(verified.choose_name().as_deref(), Some("ann@example.com"));
        assert_eq!(PersonClaims::default().or(verified).choose_name().as_deref(), Some("ann@example.com"));
    }
}
