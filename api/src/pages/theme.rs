//! The choice of colours, which works without JavaScript.

use std::time::Duration;

use axum::response::{IntoResponse, Redirect, Response};
use http::{HeaderMap, header};
use serde::Deserialize;

use super::{
    frame::{THEME_COOKIE, Theme},
    input::PageForm,
};

#[derive(Deserialize)]
pub(crate) struct ThemeForm {
    theme: String,
}

/// Stores the chosen colours in a cookie and returns to the page.
pub(super) async fn choose_theme(headers: HeaderMap, PageForm(form): PageForm<ThemeForm>) -> Response {
    const MAX_AGE: Duration = Duration::from_secs(400 * 86_400);
    let theme = Theme::from_word(&form.theme).unwrap_or_default();
    let cookie = format!(
        "{THEME_COOKIE}={}; Path=/; Max-Age={}; SameSite=Lax; HttpOnly",
        theme.word(),
        MAX_AGE.as_secs()
    );
    ([(header::SET_COOKIE, cookie)], Redirect::to(&find_origin_page(&headers))).into_response()
}

/// Path and query of the page that sent a form, and `/` if it is unknown. Never another host.
fn find_origin_page(headers: &HeaderMap) -> String {
    let referer = headers.get(header::REFERER).and_then(|value| value.to_str().ok());
    let page = referer.and_then(|referer| url::Url::parse(referer).ok()).map(|url| {
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        format!("/{}{query}", url.path().trim_start_matches('/'))
    });
    page.unwrap_or_else(|| "/".to_owned())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_form_returns_to_its_page_and_never_to_another_host() {
        let origin_page = |referer: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::REFERER, HeaderValue::from_static(referer));
            find_origin_page(&headers)
        };
        assert_eq!(origin_page("http://127.0.0.1:8088/sites?q=a"), "/sites?q=a");
        assert_eq!(origin_page("http://evil.example//other.example/x"), "/other.example/x");
        assert_eq!(origin_page("nonsense"), "/");
    }
}
