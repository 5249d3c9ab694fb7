//! Whom incidents of sites would reach: a part of the page of routes.

use std::collections::BTreeMap;

use picket_proto::ValidationError;
use picket_store::routes::{self, ReachFilter, SiteReach};
use serde::Deserialize;

use super::{
    PageError, Visitor,
    check::find_visible_site,
    list_page::{Cell, FormField, FormView, MAX_ROWS, TableView},
    parts::Behind,
};
use crate::{state::Api, v1::require_tag};

/// The site or the tag about which the reader asks.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct ReachQuery {
    pub(super) site: String,
    pub(super) tag: String,
}

impl ReachQuery {
    pub(super) fn parse_site(&self) -> Result<Option<i64>, ValidationError> {
        match self.site.trim() {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|_| ValidationError::new("site", text, "the number of a site, as in its address")),
        }
    }

    pub(super) fn typed(&self) -> BTreeMap<String, String> {
        [("site", &self.site), ("tag", &self.tag)]
            .map(|(name, value)| (name.to_owned(), value.clone()))
            .into()
    }
}

pub(super) async fn read_reach(
    visitor: &Visitor,
    api: &Api,
    site: Option<i64>,
    tag: &str,
) -> Result<TableView, PageError> {
    let ids = match site {
        Some(site) => Some([find_visible_site(visitor, api, site).await?.site_id]),
        None => None,
    };
    let tags = match tag {
        "" => None,
        tag => {
            let tag = require_tag(&visitor.access, "?tag", tag.to_owned());
            Some([tag.map_err(|problem| visitor.fail(problem))?])
        }
    };
    let filter = ReachFilter {
        ids: ids.as_ref().map(|ids| &ids[..]),
        tags: tags.as_ref().map(|tags| &tags[..]),
        // One row more shows that there are others.
        limit: i64::try_from(MAX_ROWS + 1).ok(),
    };
    let found = routes::list_reach(&api.store, filter).await.map_err(|error| visitor.fail(error))?;
    let (command, curl) = match (site, tag) {
        (Some(site), _) => (format!("picket route test {site}"), format!("site={site}")),
        (None, tag) => (format!("picket route test --tag '{tag}'"), format!("tag={tag}")),
    };
    Ok(tabulate_reach(&found).with_behind(Behind {
        command,
        curl: format!("curl '{}/api/v1/reach?{curl}'", api.public_url()),
        ..Behind::default()
    }))
}

fn tabulate_reach(found: &[SiteReach]) -> TableView {
    TableView::new(
        "reach",
        "Who would be told",
        &["Site", "Told at once", "Told later, unless acknowledged", "By the routes"],
    )
    .with_empty("No site has this tag; the list of sites has their tags.", "picket site list")
    .with_rows(found.iter().map(|site| {
        let list = |names: &[String], none: &str| match names.is_empty() {
            true => Cell::text(none),
            false => Cell::text(names.join(", ")),
        };
        vec![
            Cell::site(site.site_id, &site.site),
            list(&site.channels, "nobody"),
            list(&site.escalation_channels, "–"),
            list(&site.routes, "–"),
        ]
    }))
}

pub(super) fn build_reach_form(query: &ReachQuery) -> FormView {
    FormView {
        name: "Who would be told",
        prefix: "reach",
        action: "/routes".to_owned(),
        fields: vec![
            FormField {
                name: "site",
                label: "Who would be told about site number",
                value: query.site.clone(),
                ..FormField::default()
            },
            FormField {
                name: "tag",
                label: "or sites with the tag",
                value: query.tag.clone(),
                ..FormField::default()
            },
        ],
        button: "Show",
        ..FormView::default()
    }
}
