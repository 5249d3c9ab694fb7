//! The filter of reports: how far back, which tag and which region.

use std::time::Duration;

use picket_proto::RegionName;
use picket_store::reports::ReportFilter;
use serde::Deserialize;

use super::{
    PageError, Visitor,
    list_page::{FormField, FormView, MAX_ROWS},
};
use crate::problem::Problem;

/// Spans to choose from, in days.
const DAYS: [(u32, &str); 5] =
    [(1, "1 day"), (7, "7 days"), (30, "30 days"), (90, "90 days"), (365, "365 days")];

/// Query of a report.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ReportQuery {
    days: Option<u32>,
    tag: String,
    region: String,
}

impl ReportQuery {
    pub(super) fn days(&self, default: u32) -> u32 {
        self.days.filter(|days| DAYS.iter().any(|(allowed, _)| allowed == days)).unwrap_or(default)
    }

    /// The filter for the store. A reader whose token is limited to tags sees the sites with these tags.
    ///
    /// # Errors
    /// If the region is no name.
    pub(super) fn to_filter(&self, visitor: &Visitor, default_days: u32) -> Result<ReportFilter, PageError> {
        let region = match self.region.as_str() {
            "" => None,
            name => {
                let parse_error = |error| visitor.fail(Problem::invalid_field("/region", &error));
                Some(name.parse::<RegionName>().map_err(parse_error)?)
            }
        };
        let tag = Some(self.tag.clone()).filter(|tag| !tag.is_empty());
        let since = Duration::from_secs(u64::from(self.days(default_days)) * 86_400);
        let tag_limit = visitor.access.tag_limit().map(<[String]>::to_vec);
        // One row more shows that there are others.
        let limit = Some(u32::try_from(MAX_ROWS + 1).unwrap_or(u32::MAX));
        Ok(ReportFilter { since, tag, region, tag_limit, limit })
    }

    /// The form that chooses the filter.
    pub(super) fn to_form(&self, action: &str, default_days: u32, regions: &[String]) -> FormView {
        let days = DAYS.iter().map(|(days, name)| (days.to_string(), (*name).to_owned())).collect();
        let any = ("".to_owned(), "any".to_owned());
        let regions = std::iter::once(any).chain(regions.iter().map(|name| (name.clone(), name.clone())));
        FormView {
            name: "Filter",
            prefix: "filter",
            action: action.to_owned(),
            fields: vec![
                FormField {
                    name: "days",
                    label: "Span",
                    value: self.days(default_days).to_string(),
                    options: days,
                    ..FormField::default()
                },
                FormField { name: "tag", label: "Tag", value: self.tag.clone(), ..FormField::default() },
                FormField {
                    name: "region",
                    label: "Region",
                    value: self.region.clone(),
                    options: regions.collect(),
                    ..FormField::default()
                },
            ],
            button: "Show",
            ..FormView::default()
        }
    }

    /// Options of `picket report` that select the same.
    pub(super) fn to_options(&self, default_days: u32) -> String {
        let mut options = format!("--since {}d", self.days(default_days));
        for (name, value) in [("tag", &self.tag), ("region", &self.region)] {
            if !value.is_empty() {
                options.push_str(&format!(" --{name} '{}'", value.replace('\'', "'\\''")));
            }
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_quoted_for_a_shell() {
        let query = ReportQuery { days: Some(7), tag: "it's".to_owned(), region: String::new() };
        assert_eq!(query.to_options(30), "--since 7d --tag 'it'\\''s'");
        assert_eq!(ReportQuery { days: Some(8), ..ReportQuery::default() }.days(30), 30);
    }
}
