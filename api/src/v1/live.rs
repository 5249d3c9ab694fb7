//! Live results and events as server-sent events.

use std::time::Duration;

use axum::{
    Extension,
    extract::{OriginalUri, RawQuery, State},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use picket_proto::{SiteId, Timestamp, suggestion::describe_known_names};
use picket_runtime::clock;
use picket_store::live_feed;
use tracing::warn;
use url::form_urlencoded;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    access::{Client, Reader},
    live::{
        Lagged,
        access::{build_access_check, find_holder},
        event::{EventKind, LiveEvent},
        filter::Filter,
        hub::{Hub, Source, ViewerRefusal},
        stream::LiveStream,
    },
    problem::{Problem, ProblemKind},
    state::Api,
};

/// Routes of live events.
pub(super) fn build_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(follow_events))
}

/// Results and events as they come, as server-sent events.
///
/// `result`: a result as `nats req` shows it. `incident`, `warning`, `region`: the event of
/// `picket.event.>`. `bus`: whether NATS is connected; without it no results come. `lagged`: the number
/// of events that this stream lost because it was read too slowly. `closed`: the token has ended.
/// A client that returns with `Last-Event-ID` gets the incidents of its absence, and no results.
/// The stream shows what probers report; the rows of checks are the record.
#[utoipa::path(
    get, path = "/live", tag = "live", security(("token" = ["read"])),
    params(
        ("site" = Option<Vec<i64>>, Query, description = "Only these sites"),
        ("tag" = Option<Vec<String>>, Query, description = "Only sites with one of these tags"),
        ("region" = Option<Vec<String>>, Query, description = "Only these regions"),
        ("outcome" = Option<Vec<String>>, Query, description = "Only results with one of these outcomes: up, down, missed"),
        ("event" = Option<Vec<String>>, Query, description = "Only these events: result, incident, warning, region"),
        ("changes" = Option<bool>, Query, description = "Only results whose outcome differs from the one before of their \
            site and region; the first counts as a change unless it is up"),
        ("Last-Event-ID" = Option<String>, Header, description = "Id of the last event that the client has"),
    ),
    responses(
        (status = OK, body = String, content_type = "text/event-stream"),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn follow_events(
    Reader(access): Reader,
    State(api): State<Api>,
    Extension(client): Extension<Client>,
    OriginalUri(uri): OriginalUri,
    version: http::Version,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    /// Maximum time until the server has the subscription.
    const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(2);
    let mut filter = parse_filter(query.as_deref().unwrap_or_default())?;
    filter.tag_limit = access.tag_limit().map(<[String]>::to_vec);
    let shard = match filter.sites.as_slice() {
        [site] => find_shard(&api, *site, access.tag_limit()).await?,
        _ => None,
    };
    let sources = Source::select(&filter, shard);
    let last_event = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let wants_incidents = filter.admits_kind(EventKind::Incident);
    let replay_filter = filter.clone();
    let mut viewer = api.live.add_viewer(filter, sources, find_holder(&access)).map_err(refuse_viewer)?;
    if *api.live.watch_connection().borrow() {
        viewer.wait_open(SUBSCRIBE_TIMEOUT).await;
    }
    // After the subscription, so that no incident falls between the two.
    let replayed = match last_event {
        Some(since) if wants_incidents => replay_incidents(&api, since, &replay_filter).await,
        _ => Vec::new(),
    };
    let access_check = build_access_check(&api, access, &client, version, &uri, &headers);
    let stream =
        LiveStream::new(viewer, api.live.watch_connection(), api.live.stopping(), access_check, replayed);
    Ok(stream.into_response())
}

/// Finds the shard of the only site of a stream. Live goes on without the database: the stream then
/// gets the results of all shards, and its filter does the rest.
async fn find_shard(
    api: &Api,
    site: SiteId,
    tag_limit: Option<&[String]>,
) -> Result<Option<picket_proto::Shard>, Problem> {
    match live_feed::find_shard(&api.store, site, tag_limit).await {
        Ok(Some(shard)) => Ok(Some(shard)),
        Ok(None) => Err(Problem::new(ProblemKind::NotFound, format!("there is no site {site}"))),
        Err(_) => Ok(None),
    }
}

fn refuse_viewer(refusal: ViewerRefusal) -> Problem {
    let (kind, detail) = match refusal {
        ViewerRefusal::HolderFull => (
            ProblemKind::RateLimited,
            format!(
                "{} live streams of this token or session are open; allowed: as many",
                Hub::MAX_VIEWERS_OF_HOLDER
            ),
        ),
        ViewerRefusal::ProcessFull => (
            ProblemKind::RateLimited,
            format!("{} live streams are open; allowed: as many in one process", Hub::MAX_VIEWERS),
        ),
        ViewerRefusal::Stopping => (ProblemKind::RateLimited, "this process is stopping".to_owned()),
    };
    Problem::new(kind, detail).with_retry_after(5)
}

/// The incidents since shortly before `since`. A client knows an event that it has already by its id.
async fn replay_incidents(api: &Api, since: Timestamp, filter: &Filter) -> Vec<Bytes> {
    /// Incidents bear the due times of their checks, which lie before the time of their event.
    const OVERLAP: Duration = Duration::from_secs(600);
    const MAX_ABSENCE: Duration = Duration::from_secs(86_400);
    const MAX_REPLAYED: i64 = 200;
    let now = clock::wall_clock_now();
    let since = since.saturating_sub(OVERLAP).max(now.saturating_sub(MAX_ABSENCE));
    match live_feed::list_transitions(&api.store, since, filter.tag_limit.as_deref(), MAX_REPLAYED).await {
        Ok(events) => {
            let is_cut = i64::try_from(events.len()) == Ok(MAX_REPLAYED);
            let events = events.into_iter().filter_map(|event| LiveEvent::from_event(event, now));
            // The events have the tags of their sites.
            let admitted = events.filter(|event| filter.admits(event, |_, _| false)).map(|event| event.bytes);
            is_cut.then(|| Lagged::encode(None)).into_iter().chain(admitted).collect()
        }
        Err(error) => {
            warn!(error = &error as &dyn std::error::Error, "could not replay incidents");
            vec![Lagged::encode(None)]
        }
    }
}

/// Parses the query of a stream.
fn parse_filter(query: &str) -> Result<Filter, Problem> {
    const MAX_VALUES: usize = 100;
    const NAMES: [&str; 6] = ["site", "tag", "region", "outcome", "event", "changes"];
    let mut filter = Filter::default();
    for (count, (name, value)) in form_urlencoded::parse(query.as_bytes()).enumerate() {
        let refuse = |allowed: &str| Problem::invalid_parameter(&name, &value, allowed);
        if count >= MAX_VALUES {
            return Err(refuse("at most 100 parameters"));
        }
        match &*name {
            "site" => filter.sites.push(SiteId(value.parse().map_err(|_| refuse("the number of a site"))?)),
            "tag" if value.is_empty() => return Err(refuse("a tag of sites")),
            "tag" => filter.tags.push(value.into_owned()),
            "region" => {
                let region =
                    value.parse().map_err(|error: picket_proto::ValidationError| refuse(&error.expected))?;
                filter.regions.push(region);
            }
            "outcome" => filter.outcomes.push(value.parse().map_err(|_| refuse("up, down or missed"))?),
            "event" => {
                let kind = EventKind::ALL_KINDS.into_iter().find(|kind| kind.as_str() == value);
                filter.kinds.push(kind.ok_or_else(|| refuse("result, incident, warning or region"))?);
            }
            "changes" => filter.is_changes_only = value.parse().map_err(|_| refuse("true or false"))?,
            _ => return Err(Problem::invalid_parameter(&name, &value, &describe_known_names(&name, &NAMES))),
        }
    }
    Ok(filter)
}

#[cfg(test)]
mod tests {
    use picket_proto::Outcome;

    use super::*;

    #[test]
    fn a_query_is_a_filter() {
        let filter =
            parse_filter("site=1&site=2&tag=a%20b&region=eu&outcome=down&event=result&changes=true").unwrap();

        assert_eq!(filter.sites, [SiteId(1), SiteId(2)]);
        assert_eq!((filter.tags, filter.outcomes), (vec!["a b".to_owned()], vec![Outcome::Down]));
        assert_eq!((filter.kinds, filter.is_changes_only), (vec![EventKind::Result], true));
    }

    #[test]
    fn a_refused_parameter_is_named_with_its_value_and_what_is_allowed() {
        for (query, refusal) in [
            ("site=x", "site: 'x' is not allowed; allowed: the number of a site"),
            ("outcome=best", "outcome: 'best' is not allowed; allowed: up, down or missed"),
            ("event=x", "event: 'x' is not allowed; allowed: result, incident, warning or region"),
            ("regoin=eu", "regoin: 'eu' is not allowed; allowed: no such field; did you mean 'region'?"),
            ("changes=1", "changes: '1' is not allowed; allowed: true or false"),
        ] {
            assert_eq!(parse_filter(query).unwrap_err().detail(), refusal);
        }
        assert!(parse_filter(&"site=1&".repeat(101)).unwrap_err().detail().contains("at most 100"));
    }

    #[test]
    fn a_stream_of_one_site_needs_one_shard_and_one_of_incidents_no_results() {
        let shard = Some(picket_proto::Shard(3));
        let all = parse_filter("site=7").unwrap();

        assert_eq!(
            Source::select(&all, shard),
            [Source::Shard(picket_proto::Shard(3)), Source::Bundles, Source::Events]
        );
        assert_eq!(Source::select(&all, None), [Source::Results, Source::Events]);
        assert_eq!(Source::select(&parse_filter("event=incident").unwrap(), None), [Source::Events]);
        assert_eq!(Source::select(&parse_filter("event=result").unwrap(), None), [Source::Results]);
    }
}
