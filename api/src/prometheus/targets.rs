//! HTTP service discovery of Prometheus.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{RawQuery, State},
};
use picket_proto::{RegionName, ValidationError, suggestion::describe_known_names};
use picket_store::live_feed::{Target, list_targets};
use serde::Serialize;
use url::form_urlencoded;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    access::Reader,
    problem::{Problem, ProblemKind},
    state::Api,
};

/// Routes of service discovery.
pub(crate) fn build_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list_prometheus_targets))
}

/// A target group of Prometheus.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
struct TargetGroup {
    /// The URL of a site, to be moved to the parameter `target` of `/probe`.
    #[schema(value_type = Vec<String>)]
    targets: [String; 1],
    /// `__meta_picket_site_id`, `__meta_picket_site`, `__meta_picket_region` and `__meta_picket_tags`.
    #[schema(value_type = BTreeMap<String, String>)]
    labels: BTreeMap<&'static str, String>,
}

/// The sites that are checked, as HTTP service discovery of Prometheus.
///
/// One target group for each site and region. `__meta_picket_tags` begins and ends with a comma, so that
/// `.*,shop,.*` matches a tag. Paused sites are left out.
#[utoipa::path(
    get, path = "/integrations/prometheus/targets", tag = "integrations", security(("token" = ["read"])),
    params(
        ("tag" = Option<String>, Query, description = "Only sites with this tag"),
        ("region" = Option<String>, Query, description = "Only this region"),
    ),
    responses((status = OK, body = Vec<TargetGroup>), (status = "default", body = Problem, content_type = "application/problem+json")),
)]
async fn list_prometheus_targets(
    Reader(access): Reader,
    State(api): State<Api>,
    RawQuery(query): RawQuery,
) -> Result<Json<Vec<TargetGroup>>, Problem> {
    const MAX_TARGETS: i64 = 100_000;
    let (tag, region) = parse_query(query.as_deref().unwrap_or_default())?;
    let targets =
        list_targets(&api.store, access.tag_limit(), tag.as_deref(), region.as_ref(), MAX_TARGETS + 1)
            .await?;
    if targets.len() as u64 > MAX_TARGETS.unsigned_abs() {
        // A part of the targets would look like all of them.
        let detail = format!("there are more than {MAX_TARGETS} targets; name a tag or a region");
        return Err(Problem::new(ProblemKind::Invalid, detail));
    }
    Ok(Json(targets.into_iter().map(TargetGroup::from).collect()))
}

impl From<Target> for TargetGroup {
    fn from(target: Target) -> Self {
        let tags = match target.tags.as_slice() {
            [] => String::new(),
            tags => format!(",{},", tags.join(",")),
        };
        let labels = BTreeMap::from([
            ("__meta_picket_region", target.region),
            ("__meta_picket_site", target.site),
            ("__meta_picket_site_id", target.site_id.to_string()),
            ("__meta_picket_tags", tags),
        ]);
        Self { targets: [target.url], labels }
    }
}

fn parse_query(query: &str) -> Result<(Option<String>, Option<RegionName>), Problem> {
    let (mut tag, mut region) = (None, None);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let refuse = |allowed: &str| Problem::invalid_parameter(&name, &value, allowed);
        match &*name {
            "tag" => tag = Some(value.into_owned()),
            "region" => {
                region = Some(value.parse().map_err(|error: ValidationError| refuse(&error.expected))?);
            }
            _ => return Err(refuse(&describe_known_names(&name, &["tag", "region"]))),
        }
    }
    Ok((tag, region))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_group_has_the_site_its_region_and_its_tags() {
        let target = |tags: &[&str]| Target {
            site_id: 7,
            site: "shop".to_owned(),
            url: "https://shop.example/".to_owned(),
            tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
            region: "eu".to_owned(),
        };

        let json = serde_json::to_string(&TargetGroup::from(target(&["a", "b"]))).unwrap();
        assert_eq!(
            json,
            r#"{"targets":["https://shop.example/"],"labels":{"__meta_picket_region":"eu","__meta_picket_site":"shop","__meta_picket_site_id":"7","__meta_picket_tags":",a,b,"}}"#
        );
        assert_eq!(TargetGroup::from(target(&[])).labels["__meta_picket_tags"], "");
        assert!(parse_query("tga=x").unwrap_err().detail().contains("did you mean 'tag'"));
    }
}
