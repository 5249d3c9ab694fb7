//! Bodies and query strings of requests.

use axum::{
    Json,
    extract::{FromRequest, FromRequestParts, Query, Request},
};
use http::request::Parts;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use utoipa::ToSchema;

use crate::{problem::Problem, state::Api};

/// A JSON body.
pub(crate) struct ApiJson<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Api> for ApiJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        let Json(body) = Json::from_request(request, api).await?;
        Ok(Self(body))
    }
}

/// Query parameters.
pub(crate) struct ApiQuery<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<Api> for ApiQuery<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let Query(query) = Query::from_request_parts(parts, api).await?;
        Ok(Self(query))
    }
}

/// Maximum number of items of a page of a list, a query parameter. More than 1,000 are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ToSchema)]
#[schema(value_type = u16, minimum = 1, maximum = 1000, default = 100)]
pub(crate) struct PageLimit(pub(crate) u16);

impl Default for PageLimit {
    fn default() -> Self {
        Self(100)
    }
}

impl<'de> Deserialize<'de> for PageLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.parse() {
            Ok(limit @ 1..=1_000) => Ok(Self(limit)),
            _ => Err(serde::de::Error::custom(format!("'{text}' is not allowed; allowed: 1 to 1000"))),
        }
    }
}
