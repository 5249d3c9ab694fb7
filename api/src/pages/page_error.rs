//! A problem as a page.

use askama::Template;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};

use super::{
    frame::{Frame, Theme},
    render_page,
};
use crate::problem::Problem;

/// See the module documentation.
pub(crate) struct PageError {
    problem: Box<Problem>,
    theme: Theme,
    /// Page to go to after a sign-in.
    next: String,
}

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage<'a> {
    frame: Frame,
    title: &'a str,
    status: u16,
    detail: &'a str,
    /// Address of the sign-in.
    sign_in: String,
}

impl PageError {
    pub(super) fn new(problem: Problem, theme: Theme) -> Self {
        Self { problem: Box::new(problem), theme, next: "/".to_owned() }
    }

    /// The sign-in returns to `path`.
    pub(super) fn with_next(mut self, path: &str) -> Self {
        path.clone_into(&mut self.next);
        self
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let status = self.problem.status();
        let title = match status {
            StatusCode::NOT_FOUND => "Not found",
            StatusCode::UNAUTHORIZED => "Sign in",
            _ => self.problem.title(),
        };
        let next: String = url::form_urlencoded::byte_serialize(self.next.as_bytes()).collect();
        let page = ProblemPage {
            sign_in: format!("/sign-in?next={next}"),
            frame: Frame::new(title, None, None, self.theme),
            title,
            status: status.as_u16(),
            detail: self.problem.detail(),
        };
        let mut response = render_page(&page);
        *response.status_mut() = status;
        if let Some(seconds) = self.problem.retry_after() {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}
