//! The live page: results and events as they come.

use askama::Template;
use axum::{extract::State, response::Response};
use picket_proto::Outcome;
use serde::Deserialize;

use super::{
    PageError, Visitor,
    frame::{Frame, Section},
    incidents::list_region_names,
    input::PageQuery,
    parts::Behind,
    render_page,
};
use crate::state::Api;

/// Filter of the stream, as in the address.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct LiveQuery {
    outcome: String,
    region: String,
    tag: String,
    changes: String,
}

#[derive(Template)]
#[template(path = "live.html")]
struct LivePage {
    frame: Frame,
    filter: LiveQuery,
    outcomes: Vec<&'static str>,
    regions: Vec<String>,
    /// Address of the stream.
    stream: String,
    behind: Behind,
}

/// Shows the page of the stream.
pub(super) async fn show_live(
    visitor: Visitor,
    State(api): State<Api>,
    PageQuery(filter): PageQuery<LiveQuery>,
) -> Result<Response, PageError> {
    let stream = filter.stream_address();
    Ok(render_page(&LivePage {
        frame: visitor.frame("Live", Section::Live),
        outcomes: Outcome::ALL_VALUES.iter().map(|outcome| outcome.as_str()).collect(),
        regions: list_region_names(&visitor, &api).await?,
        behind: Behind {
            sql: "SELECT * FROM report.checks ORDER BY scheduled_at DESC LIMIT 50;".to_owned(),
            command: "picket tail".to_owned(),
            curl: format!("curl -N '{}{stream}'", api.public_url()),
        },
        filter,
        stream,
    }))
}

impl LiveQuery {
    fn has_outcome(&self, word: &str) -> bool {
        self.outcome == word
    }

    fn stream_address(&self) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        let pairs = [
            ("outcome", &self.outcome),
            ("region", &self.region),
            ("tag", &self.tag),
            ("changes", &self.changes),
        ];
        for (name, value) in pairs.into_iter().filter(|(_, value)| !value.is_empty()) {
            query.append_pair(name, value);
        }
        format!("/api/v1/live?{}", query.finish()).trim_end_matches('?').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_has_the_filter_of_the_page() {
        let filter = LiveQuery { outcome: "down".to_owned(), tag: "a b".to_owned(), ..LiveQuery::default() };
        assert_eq!(filter.stream_address(), "/api/v1/live?outcome=down&tag=a+b");
        assert_eq!(LiveQuery::default().stream_address(), "/api/v1/live");
    }
}
