//! A client of the API with a token.

use picket_store::api_tokens::Scope;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, TestApi, send};

pub(crate) const HOOK: &str = "https://hooks.example.com/picket";

/// See the module documentation.
pub(crate) struct Client<'a> {
    pub(crate) api: &'a TestApi,
    pub(crate) token: String,
}

impl Client<'_> {
    pub(crate) async fn write(&self, method: Method, path: &str, body: Value) -> Answer {
        self.api.send_json(method, &format!("/api/v1{path}"), Some(&self.token), &body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.api.get(&format!("/api/v1{path}"), Some(&self.token)).await
    }

    pub(crate) async fn call(&self, method: Method, path: &str) -> Answer {
        send(self.api.request(method, &format!("/api/v1{path}"), Some(&self.token))).await
    }

    pub(crate) async fn add_channel(&self, name: &str) {
        let body = json!({"name": name, "kind": "webhook", "settings": {"url": HOOK}});
        let added = self.write(Method::POST, "/channels", body).await;
        assert_eq!(added.status, 201, "{added:?}");
    }

    pub(crate) async fn add_route(&self, body: Value) {
        let added = self.write(Method::POST, "/routes", body).await;
        assert_eq!(added.status, 201, "{added:?}");
    }
}

pub(crate) async fn admin(api: &TestApi) -> Client<'_> {
    Client { api, token: api.create_admin_token().await }
}

pub(crate) async fn limited<'a>(api: &'a TestApi, tag: &str) -> Client<'a> {
    let scopes = [Scope::Read, Scope::Write];
    Client { api, token: api.create_token(&scopes, Some(&[tag])).await }
}
