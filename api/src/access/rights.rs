//! The rights of a sender: scopes and tags.

use std::net::{IpAddr, Ipv4Addr};

use picket_store::{api_tokens::ApiToken, sessions::SessionIdentity};

pub(crate) use picket_store::api_tokens::Scope;

use super::limits::LimitKey;
use crate::problem::{Problem, ProblemKind};

/// What the sender of a request may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    /// Name of the token or of the person, for logs and pages.
    pub(crate) name: String,
    /// True without a token or a session, on loopback. Pages say so.
    pub(crate) is_open: bool,
    /// True for a session of a browser, which can sign out.
    pub(crate) is_session: bool,
    scopes: Vec<Scope>,
    /// Only sites with at least one of these tags, if given.
    tags: Option<Vec<String>>,
    limit_key: LimitKey,
}

impl Access {
    /// Access of everybody on this machine, while there is no token.
    pub(crate) fn open() -> Self {
        Self {
            name: "everybody on this machine".to_owned(),
            is_open: true,
            is_session: false,
            scopes: Scope::ALL_SCOPES.to_vec(),
            tags: None,
            limit_key: LimitKey::from(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        }
    }

    pub(crate) fn of_token(token: ApiToken) -> Self {
        Self {
            name: token.name,
            is_open: false,
            is_session: false,
            scopes: token.scopes,
            tags: token.tags,
            limit_key: LimitKey::Token(token.id),
        }
    }

    pub(crate) fn of_session(session: SessionIdentity) -> Self {
        // Sessions of one token share its limit; others are those of one person each.
        let limit_key = match session.token_id {
            Some(token) => LimitKey::Token(token),
            None => LimitKey::Person(session.name.clone()),
        };
        Self {
            name: session.name,
            is_open: false,
            is_session: true,
            scopes: session.scopes,
            tags: session.tags,
            limit_key,
        }
    }

    /// What a session gets that this sender starts.
    pub(crate) fn into_session_identity(self, token_id: Option<i64>) -> SessionIdentity {
        SessionIdentity { name: self.name, scopes: self.scopes, tags: self.tags, token_id }
    }

    pub(crate) fn allows(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin)
    }

    pub(crate) fn scopes(&self) -> &[Scope] {
        &self.scopes
    }

    /// Tags of the sites that the sender may see, or `None` for all sites. For the functions of the store.
    pub(crate) fn tag_limit(&self) -> Option<&[String]> {
        self.tags.as_deref()
    }

    /// True if the sender may see a site with these tags.
    pub(crate) fn covers_tags(&self, tags: &[String]) -> bool {
        self.tag_limit().is_none_or(|limit| tags.iter().any(|tag| limit.contains(tag)))
    }

    /// # Errors
    /// If the sender may see only the sites of some tags, and the object concerns all sites.
    pub(crate) fn require_all_sites(&self) -> Result<(), Problem> {
        match &self.tags {
            None => Ok(()),
            Some(tags) => Err(Problem::new(
                ProblemKind::Forbidden,
                format!("the token is limited to the tags {}, and this concerns all sites", tags.join(", ")),
            )),
        }
    }

    /// # Errors
    /// If the sender lacks the scope.
    pub(crate) fn require_scope(&self, scope: Scope) -> Result<(), Problem> {
        match self.allows(scope) {
            true => Ok(()),
            false => {
                Err(Problem::new(ProblemKind::Forbidden, format!("the token lacks the scope '{scope}'")))
            }
        }
    }
}

impl From<&Access> for LimitKey {
    fn from(access: &Access) -> Self {
        access.limit_key.clone()
    }
}
