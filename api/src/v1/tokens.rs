//! Tokens of the API.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use picket_proto::{Timestamp, ValidationError};
use picket_store::api_tokens::{self, ApiToken, NewToken};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::preconditions::{build_etag, check_if_match};
use crate::{
    access::Administrator,
    extract::{ApiJson, ApiPath, ApiQuery},
    problem::Problem,
    state::Api,
};

pub(super) fn build_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list_tokens, create_token)).routes(routes!(read_token, revoke_token))
}

/// A token without its secret.
#[derive(Serialize, ToSchema)]
struct Token {
    /// Id of the token.
    id: i64,
    /// Name of the token.
    name: String,
    /// What the token allows: `read`, `write`, `check`, `admin`.
    scopes: Vec<&'static str>,
    /// Only sites with at least one of these tags; null for all sites.
    tags: Option<Vec<String>>,
    /// Time of creation.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// End of the token; null for none.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
    /// Last use, to the minute; null before the first.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_used_at: Option<Timestamp>,
    /// Time of the revocation; null for none.
    #[schema(value_type = Option<String>, format = DateTime)]
    revoked_at: Option<Timestamp>,
    /// `valid`, `expired` or `revoked`.
    state: String,
}

impl From<ApiToken> for Token {
    fn from(token: ApiToken) -> Self {
        Self {
            id: token.id,
            name: token.name,
            scopes: token.scopes.iter().map(|scope| scope.as_str()).collect(),
            tags: token.tags,
            created_at: token.created_at,
            expires_at: token.expires_at,
            last_used_at: token.last_used_at,
            revoked_at: token.revoked_at,
            state: token.state,
        }
    }
}

/// Tokens, the newest first.
#[derive(Serialize, ToSchema)]
struct TokenList {
    items: Vec<Token>,
}

/// A new token with its secret, which cannot be read again.
#[derive(Serialize, ToSchema)]
struct CreatedToken {
    #[serde(flatten)]
    token: Token,
    /// The secret, to send as `Authorization: Bearer pkt_…`.
    secret: String,
}

/// A token to create.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TokenFields {
    /// Name, unique among valid tokens.
    name: String,
    /// What the token allows: `read`, `write`, `check`, `admin`.
    scopes: Vec<String>,
    /// Only sites with at least one of these tags; null for all sites.
    tags: Option<Vec<String>>,
    /// End of the token; null for none.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct TokenQuery {
    /// Includes expired and revoked tokens.
    #[serde(default)]
    all: bool,
}

/// Lists the tokens, the newest first, without their secrets.
#[utoipa::path(
    get, path = "/tokens", tag = "tokens", security(("token" = ["admin"])), params(TokenQuery),
    responses((status = OK, body = TokenList)),
)]
async fn list_tokens(
    _: Administrator,
    State(api): State<Api>,
    ApiQuery(query): ApiQuery<TokenQuery>,
) -> Result<Json<TokenList>, Problem> {
    let tokens = api_tokens::list_tokens(&api.store, query.all).await?;
    Ok(Json(TokenList { items: tokens.into_iter().map(Token::from).collect() }))
}

/// Creates a token. The response is the only one with its secret.
#[utoipa::path(
    post, path = "/tokens", tag = "tokens", security(("token" = ["admin"])), request_body = TokenFields,
    responses((status = CREATED, body = CreatedToken)),
)]
async fn create_token(
    _: Administrator,
    State(api): State<Api>,
    ApiJson(fields): ApiJson<TokenFields>,
) -> Result<(StatusCode, Json<CreatedToken>), Problem> {
    let refuse = |error: ValidationError| Problem::invalid_field("/scopes", &error);
    let scopes = fields.scopes.iter().map(|scope| scope.parse()).collect::<Result<_, _>>().map_err(refuse)?;
    let new = NewToken { name: fields.name, scopes, tags: fields.tags, expires_at: fields.expires_at };
    let (token, secret) = api_tokens::create_token(&api.store, &new).await?;
    // The first token ends the open mode.
    api.authenticator.forget_all();
    let created = CreatedToken { token: token.into(), secret: secret.reveal().to_owned() };
    Ok((StatusCode::CREATED, Json(created)))
}

/// Reads a token without its secret, expired and revoked ones too.
#[utoipa::path(
    get, path = "/tokens/{token_id}", tag = "tokens", security(("token" = ["admin"])),
    params(("token_id" = i64, Path, description = "Id of the token")),
    responses((status = OK, body = Token, headers(("ETag" = String, description = "Version, which the revocation replaces")))),
)]
async fn read_token(
    _: Administrator,
    State(api): State<Api>,
    ApiPath(id): ApiPath<i64>,
) -> Result<Response, Problem> {
    let token = find_token(&api, id).await?;
    Ok(([(header::ETAG, build_token_etag(&token))], Json(Token::from(token))).into_response())
}

async fn find_token(api: &Api, id: i64) -> Result<ApiToken, Problem> {
    let found = api_tokens::read_token(&api.store, id).await?;
    Ok(found.ok_or_else(|| picket_store::Error::TokenNotFound(id.to_string()))?)
}

/// The `ETag` of a token. Of a token only its revocation changes, beside the time of its last use, which no client
/// writes.
fn build_token_etag(token: &ApiToken) -> HeaderValue {
    let revoked_at = token.revoked_at.map_or(0, |at| at.as_micros());
    build_etag(format_args!("{}-{revoked_at}", token.id))
}

/// Revokes a token and ends its sessions, within seconds in all processes.
#[utoipa::path(
    delete, path = "/tokens/{token_id}", tag = "tokens", security(("token" = ["admin"])),
    params(
        ("token_id" = i64, Path, description = "Id of the token"),
        ("If-Match" = Option<String>, Header, description = "Revokes the token only if it still has this `ETag`"),
    ),
    responses(
        (status = NO_CONTENT, description = "The token was revoked."),
        (status = PRECONDITION_FAILED, body = Problem, content_type = "application/problem+json",
            description = "The token has another version than `If-Match`: it was revoked."),
    ),
)]
async fn revoke_token(
    _: Administrator,
    State(api): State<Api>,
    ApiPath(id): ApiPath<i64>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    // A token that is not revoked has one version, so that the revocation itself decides a race.
    check_if_match(&headers, &build_token_etag(&find_token(&api, id).await?))?;
    let revoked = api_tokens::revoke_token(&api.store, id).await?;
    api.authenticator.forget_all();
    match revoked {
        Some(_) => Ok(StatusCode::NO_CONTENT),
        None => Err(picket_store::Error::TokenNotFound(id.to_string()).into()),
    }
}
