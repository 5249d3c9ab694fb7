//! The provider: its metadata, the redirect to it, and the identity of a person who returns.

use std::{path::PathBuf, sync::Arc, time::Duration};

use moka::future::Cache;
use openidconnect::{
    AdditionalClaims, AuthenticationFlow, AuthorizationCode, Client, ClientId, ClientSecret, CsrfToken,
    DiscoveryError, EmptyExtraTokenFields, EndpointMaybeSet, EndpointNotSet, EndpointSet, IdTokenFields,
    IssuerUrl, Nonce, OAuth2TokenResponse, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl,
    Scope as OidcScope, StandardErrorResponse, StandardTokenResponse, TokenResponse, UserInfoClaims,
    core::{
        CoreAuthDisplay, CoreAuthPrompt, CoreErrorResponseType, CoreGenderClaim, CoreJsonWebKey,
        CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm, CoreProviderMetadata, CoreResponseType,
        CoreRevocableToken, CoreRevocationErrorResponse, CoreTokenIntrospectionResponse, CoreTokenType,
    },
};
use picket_store::sessions::SessionIdentity;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;

use super::{
    attempt::SignInAttempt, http_client::HttpClient, options::OidcConfig, person::PersonClaims,
    rights::find_rights,
};

/// Claims that OpenID Connect does not define, the groups among them.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ExtraClaims {
    #[serde(flatten)]
    values: Map<String, Value>,
}

impl AdditionalClaims for ExtraClaims {}

type TokenFields = IdTokenFields<
    ExtraClaims,
    EmptyExtraTokenFields,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJwsSigningAlgorithm,
>;

type OidcClient = Client<
    ExtraClaims,
    CoreAuthDisplay,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJsonWebKey,
    CoreAuthPrompt,
    StandardErrorResponse<CoreErrorResponseType>,
    StandardTokenResponse<TokenFields, CoreTokenType>,
    CoreTokenIntrospectionResponse,
    CoreRevocableToken,
    CoreRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

/// Why a person could not sign in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OidcError {
    /// The provider could not be asked, or its answer is unusable.
    #[error("the sign-in provider {issuer} cannot be used: {why}")]
    Unavailable {
        /// Issuer of the provider.
        issuer: String,
        /// The reason, without secrets.
        why: String,
    },
    /// The provider refused the code, or its answer does not prove who signed in.
    #[error("the sign-in provider's answer was not accepted: {0}; sign in again")]
    NotAccepted(String),
    /// The person is in no group with rights.
    #[error("{name} has signed in, but is in no group with rights here (PICKET_OIDC_GROUPS)")]
    NoRights {
        /// Name of the person.
        name: String,
    },
}

/// See the module documentation.
pub(crate) struct OidcProvider {
    config: OidcConfig,
    host: String,
    secret: Option<ClientSecret>,
    http: HttpClient,
    /// Metadata and keys of the provider.
    metadata: Cache<(), Arc<CoreProviderMetadata>>,
}

/// Failure to prepare sign-in by OpenID Connect.
#[derive(Debug, thiserror::Error)]
pub enum OidcSetupError {
    /// The file with the client secret is unreadable.
    #[error("PICKET_OIDC_CLIENT_SECRET_FILE: cannot read '{path}'")]
    Secret {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// The system has no usable certificate authorities.
    #[error("could not build the HTTP client for the sign-in provider")]
    Client(#[from] reqwest::Error),
}

impl OidcProvider {
    /// Path to which the provider returns people.
    pub(crate) const CALLBACK_PATH: &str = "/sign-in/oidc/callback";
    /// Time after which metadata and keys are read again.
    const METADATA_AGE: Duration = Duration::from_secs(3_600);
    /// Signatures of ID tokens that are accepted; those with a shared secret and none at all are not.
    const ALGORITHMS: [CoreJwsSigningAlgorithm; 8] = [
        CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
        CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha384,
        CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha512,
        CoreJwsSigningAlgorithm::RsaSsaPssSha256,
        CoreJwsSigningAlgorithm::RsaSsaPssSha384,
        CoreJwsSigningAlgorithm::RsaSsaPssSha512,
        CoreJwsSigningAlgorithm::EcdsaP256Sha256,
        CoreJwsSigningAlgorithm::EcdsaP384Sha384,
    ];

    /// # Errors
    /// If the file with the client secret or the system's certificate authorities cannot be read.
    pub(crate) fn new(config: OidcConfig) -> Result<Self, OidcSetupError> {
        let secret = match &config.client_secret_file {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| OidcSetupError::Secret { path: path.clone(), source })?;
                Some(ClientSecret::new(text.trim_end_matches(['\r', '\n']).to_owned()))
            }
            None => None,
        };
        let metadata = Cache::builder().max_capacity(1).time_to_live(Self::METADATA_AGE).build();
        let host = Url::parse(&config.issuer).ok().and_then(|url| Some(url.host_str()?.to_owned()));
        let host = host.unwrap_or_else(|| config.issuer.clone());
        Ok(Self { config, host, secret, http: HttpClient::new()?, metadata })
    }

    /// Host of the provider, for people.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Starts an attempt, from which the provider returns people to `public_url`. Returns it with the URL of the
    /// provider to redirect to.
    ///
    /// # Errors
    /// If the provider's metadata cannot be read.
    pub(crate) async fn start_attempt(
        &self,
        public_url: &str,
        next: String,
    ) -> Result<(SignInAttempt, Url), OidcError> {
        let client = self.build_client(public_url).await?;
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let request = client
            .authorize_url(
                AuthenticationFlow::<CoreResponseType>::AuthorizationCode,
                CsrfToken::new_random,
                Nonce::new_random,
            )
            .add_scopes(self.config.scopes.iter().cloned().map(OidcScope::new))
            .set_pkce_challenge(challenge);
        let (url, state, nonce) = request.url();
        let attempt = SignInAttempt {
            state: state.secret().clone(),
            nonce: nonce.secret().clone(),
            verifier: verifier.secret().clone(),
            next,
        };
        Ok((attempt, url))
    }

    /// Exchanges the code that the provider returned for the identity of the person.
    ///
    /// # Errors
    /// If the provider refuses the code or cannot be reached, the ID token is not valid, or the person has no rights.
    pub(crate) async fn finish_attempt(
        &self,
        public_url: &str,
        attempt: &SignInAttempt,
        code: String,
    ) -> Result<SessionIdentity, OidcError> {
        let http = self.http.as_function();
        let client = self.build_client(public_url).await?;
        let exchange = client
            .exchange_code(AuthorizationCode::new(code))
            .map_err(|error| self.unavailable(&error))?
            .set_pkce_verifier(PkceCodeVerifier::new(attempt.verifier.clone()))
            .request_async(&http)
            .await
            .map_err(|error| not_accepted(&error))?;
        let id_token = exchange
            .id_token()
            .ok_or_else(|| OidcError::NotAccepted("it contains no ID token".to_owned()))?;
        let nonce = Nonce::new(attempt.nonce.clone());
        let verifier = client.id_token_verifier().set_allowed_algs(Self::ALGORITHMS);
        let claims = match id_token.claims(&verifier, &nonce) {
            Ok(claims) => claims,
            Err(error) => {
                // The provider may have new keys: the next attempt reads them.
                self.metadata.invalidate_all();
                return Err(not_accepted(&error));
            }
        };

        let mut person = PersonClaims {
            email: claims.email().map(|email| email.to_string()),
            is_email_verified: claims.email_verified(),
            username: claims.preferred_username().map(|name| name.to_string()),
        };
        let mut groups = claims.additional_claims().values.get(&self.config.groups_claim).cloned();
        // Some providers tell groups and addresses by the endpoint for user information only.
        if groups.is_none() || person.choose_name().is_none() {
            let subject = Some(claims.subject().clone());
            if let Ok(request) = client.user_info(exchange.access_token().to_owned(), subject) {
                let more: UserInfoClaims<ExtraClaims, CoreGenderClaim> =
                    request.request_async(&http).await.map_err(|error| not_accepted(&error))?;
                person = person.or(PersonClaims {
                    email: more.email().map(|email| email.to_string()),
                    is_email_verified: more.email_verified(),
                    username: more.preferred_username().map(|name| name.to_string()),
                });
                groups = groups
                    .or_else(|| more.additional_claims().values.get(&self.config.groups_claim).cloned());
            }
        }
        let name = person.choose_name().unwrap_or_else(|| claims.subject().to_string());
        match find_rights(&self.config.groups, groups.as_ref()) {
            Some(rights) => Ok(SessionIdentity {
                name,
                scopes: rights.scopes().to_vec(),
                tags: rights.tags().map(<[String]>::to_vec),
                token_id: None,
            }),
            None => Err(OidcError::NoRights { name }),
        }
    }

    async fn build_client(&self, public_url: &str) -> Result<OidcClient, OidcError> {
        let read = async {
            let issuer = IssuerUrl::new(self.config.issuer.clone()).map_err(DiscoveryError::UrlParse)?;
            let http = self.http.as_function();
            CoreProviderMetadata::discover_async(issuer, &http).await.map(Arc::new)
        };
        let metadata =
            self.metadata.try_get_with((), read).await.map_err(|error| self.unavailable(&*error))?;
        let client_id = ClientId::new(self.config.client_id.clone());
        let client = OidcClient::from_provider_metadata((*metadata).clone(), client_id, self.secret.clone());
        let redirect_url = RedirectUrl::new(format!("{public_url}{}", Self::CALLBACK_PATH))
            .map_err(|error| self.unavailable(&error))?;
        Ok(client.set_redirect_uri(redirect_url))
    }

    fn unavailable(&self, error: &(dyn std::error::Error + 'static)) -> OidcError {
        OidcError::Unavailable {
            issuer: self.config.issuer.clone(),
            why: picket_runtime::ErrorChain(error).to_string(),
        }
    }
}

fn not_accepted(error: &(dyn std::error::Error + 'static)) -> OidcError {
    OidcError::NotAccepted(picket_runtime::ErrorChain(error).to_string())
}
