//! Tokens: the list, and forms that create and revoke one. The secret of a new token is shown once.

use axum::{
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use picket_proto::ValidationError;
use picket_store::api_tokens::{self, ApiToken, NewToken};
use serde::Deserialize;

use super::{
    PageError, Visitor,
    frame::Section,
    input::{PageForm, PagePath},
    list_page::{Cell, FormField, FormView, ListPage, TableView},
    parts::Behind,
    render_page,
};
use crate::{access::Scope, problem::Problem, state::Api};

/// Choices of scopes; the API gives any combination.
const SCOPE_CHOICES: [(&str, &str); 5] = [
    ("read", "read"),
    ("read check", "read, check"),
    ("read write", "read, write"),
    ("read write check", "read, write, check"),
    ("admin", "admin (everything)"),
];

/// Shows the tokens.
pub(super) async fn show_tokens(visitor: Visitor, State(api): State<Api>) -> Result<Response, PageError> {
    visitor.require_scope(Scope::Admin)?;
    render_tokens(&visitor, &api, None).await
}

async fn render_tokens(visitor: &Visitor, api: &Api, notice: Option<String>) -> Result<Response, PageError> {
    let tokens = api_tokens::list_tokens(&api.store, true).await.map_err(|error| visitor.fail(error))?;
    let subline = "A token signs in to these pages and authenticates programs. Its secret is shown once.";
    let mut page = ListPage::new(visitor.frame("Tokens", Section::Tokens), "Tokens", subline);
    page.notice = notice;
    page.forms.push(build_form(visitor.access.is_open));
    page.tables.push(tabulate_tokens(&tokens).with_behind(Behind {
        sql: "SELECT name, scopes, tags, created_at, expires_at, last_used_at, revoked_at FROM picket.api_tokens;".to_owned(),
        command: "picket token list --all".to_owned(),
        curl: format!("curl -H 'Authorization: Bearer pkt_…' '{}/api/v1/tokens?all=true'", api.public_url()),
    }));
    Ok(render_page(&page))
}

/// Values of the form.
#[derive(Deserialize)]
pub(crate) struct TokenForm {
    name: String,
    scopes: String,
    #[serde(default)]
    tags: String,
}

impl TokenForm {
    fn to_token(&self) -> Result<NewToken, ValidationError> {
        let scopes = self.scopes.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let tags: Vec<String> =
            self.tags.split(',').map(|tag| tag.trim().to_owned()).filter(|tag| !tag.is_empty()).collect();
        let tags = Some(tags).filter(|tags| !tags.is_empty());
        Ok(NewToken { name: self.name.trim().to_owned(), scopes, tags, expires_at: None })
    }
}

/// Creates a token and shows its secret.
pub(super) async fn create_token(
    visitor: Visitor,
    State(api): State<Api>,
    PageForm(form): PageForm<TokenForm>,
) -> Result<Response, PageError> {
    visitor.require_scope(Scope::Admin)?;
    let token = form
        .to_token()
        .map_err(|error| visitor.fail(Problem::invalid_field(format!("/{}", error.field), &error)))?;
    let created = api_tokens::create_token(&api.store, &token).await;
    let (token, secret) = created.map_err(|error| visitor.fail(error))?;
    // The first token ends the open mode.
    api.authenticator.forget_all();
    let notice = format!("The secret of '{}', which is not shown again: {}", token.name, secret.reveal());
    render_tokens(&visitor, &api, Some(notice)).await
}

/// Revokes a token and ends its sessions.
pub(super) async fn revoke_token(
    visitor: Visitor,
    State(api): State<Api>,
    PagePath(id): PagePath<i64>,
) -> Result<Response, PageError> {
    visitor.require_scope(Scope::Admin)?;
    api_tokens::revoke_token(&api.store, id).await.map_err(|error| visitor.fail(error))?;
    api.authenticator.forget_all();
    Ok(Redirect::to("/tokens").into_response())
}

/// The form of a new token. The first one should be able to create others, since it closes the open mode.
fn build_form(is_first: bool) -> FormView {
    let scopes =
        SCOPE_CHOICES.iter().map(|(value, name)| ((*value).to_owned(), (*name).to_owned())).collect();
    FormView {
        name: "New token",
        prefix: "token",
        action: "/tokens".to_owned(),
        is_post: true,
        is_panel: true,
        fields: vec![
            FormField { name: "name", label: "Name", placeholder: "ci", ..FormField::default() },
            FormField {
                name: "scopes",
                label: "Allows",
                options: scopes,
                value: if is_first { "admin" } else { "read" }.to_owned(),
                ..FormField::default()
            },
            FormField {
                name: "tags",
                label: "Only these tags (optional)",
                placeholder: "shop, blog",
                ..FormField::default()
            },
        ],
        button: "Create token",
        ..FormView::default()
    }
}

fn tabulate_tokens(tokens: &[ApiToken]) -> TableView {
    let columns =
        ["Name", "State", "Allows", "Tags", "Created (UTC)", "Last used (UTC)", "Expires (UTC)", "Revoke"];
    TableView::new("tokens", "Tokens, the newest first", &columns)
        .with_empty(
            "There is no token yet. The first one closes these pages to everybody without it.",
            "picket token create NAME --scopes admin",
        )
        .with_rows(tokens.iter().map(|token| {
            let scopes: Vec<&str> = token.scopes.iter().map(|scope| scope.as_str()).collect();
            let tags = token.tags.as_ref().map_or_else(|| "all sites".to_owned(), |tags| tags.join(", "));
            vec![
                Cell::text(&token.name),
                Cell::text(&token.state),
                Cell::text(scopes.join(", ")),
                Cell::text(tags),
                Cell::time(Some(token.created_at)),
                Cell::time(token.last_used_at),
                Cell::time(token.expires_at),
                match token.revoked_at {
                    Some(_) => Cell::text("–"),
                    None => Cell::Button("Revoke", format!("/tokens/{}/revoke", token.id)),
                },
            ]
        }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_of_scopes_is_allowed_and_tags_are_separated_by_commas() {
        for (scopes, _) in SCOPE_CHOICES {
            let form =
                TokenForm { name: " ci ".to_owned(), scopes: scopes.to_owned(), tags: "a, b c,".to_owned() };
            let token = form.to_token().unwrap();
            assert_eq!((token.name.as_str(), token.scopes.len()), ("ci", scopes.split(' ').count()));
            assert_eq!(token.tags, Some(vec!["a".to_owned(), "b c".to_owned()]));
        }
        let form = TokenForm { name: String::new(), scopes: "all".to_owned(), tags: String::new() };
        assert!(form.to_token().unwrap_err().to_string().contains("'all'"));
    }
}
