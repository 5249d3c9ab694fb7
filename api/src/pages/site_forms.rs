//! Changes of sites by forms: a new site, and actions on the marked sites of the list.

use std::collections::HashMap;

use askama::Template;
use axum::{
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use picket_proto::{
    SiteId, ValidationError,
    site::{SiteFields, SiteSpec},
    validation::sanitize_text,
};
use picket_store::sites::{self, SiteChanges, SiteVersion};
use url::form_urlencoded;

use super::{
    PageError, Visitor,
    frame::{Frame, Section},
    incidents::list_region_names,
    input::FormText,
    render_page,
};
use crate::{
    access::Scope,
    first_checks::request_first_checks,
    problem::{Problem, ProblemKind},
    state::Api,
    v1::{check_removal, check_tags},
};

/// Maximum sites of one action: more than a page of the list has.
const MAX_MARKED: usize = 200;

/// Values of the form of a new site, as the reader typed them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NewSite {
    url: String,
    name: String,
    interval: String,
    timeout: String,
    tags: String,
    regex: String,
    regions: Vec<String>,
}

#[derive(Template)]
#[template(path = "site_new.html")]
struct NewSitePage {
    frame: Frame,
    values: NewSite,
    regions: Vec<String>,
    /// Refusal of the values, which names the field.
    error: Option<String>,
}

/// Shows the form of a new site.
pub(super) async fn show_new_site(visitor: Visitor, State(api): State<Api>) -> Result<Response, PageError> {
    visitor.require_scope(Scope::Write)?;
    let values = NewSite { interval: "60s".to_owned(), ..NewSite::default() };
    render_form(&visitor, &api, values, None).await
}

async fn render_form(
    visitor: &Visitor,
    api: &Api,
    values: NewSite,
    error: Option<String>,
) -> Result<Response, PageError> {
    let regions = list_region_names(visitor, api).await?;
    let is_refused = error.is_some();
    let page = NewSitePage { frame: visitor.frame("Add a site", Section::Sites), values, regions, error };
    let mut response = render_page(&page);
    if is_refused {
        *response.status_mut() = http::StatusCode::UNPROCESSABLE_ENTITY;
    }
    Ok(response)
}

/// Adds a site, or shows the form again with the reason why not.
pub(super) async fn add_site(
    visitor: Visitor,
    State(api): State<Api>,
    FormText(body): FormText,
) -> Result<Response, PageError> {
    visitor.require_scope(Scope::Write)?;
    let values = NewSite::parse(&body);
    let spec = match values.to_spec() {
        Ok(spec) => spec,
        Err(error) => return render_form(&visitor, &api, values, Some(error.to_string())).await,
    };
    if let Err(problem) = check_tags(&visitor.access, &spec.tags, &[], "") {
        return render_form(&visitor, &api, values, Some(problem.detail().to_owned())).await;
    }
    // A hostile regex takes long to compile.
    let (checked, intervals) = (spec.clone(), api.settings.current().intervals);
    let validate = move || checked.validate(intervals);
    let validation = api.validations.run_blocking_for(&visitor.access, validate).await;
    if let Err(error) = validation.map_err(|problem| visitor.fail(problem))? {
        return render_form(&visitor, &api, values, Some(error.to_string())).await;
    }
    match sites::insert_site(&api.store, &spec).await {
        Ok(id) => {
            request_first_checks(&api, &visitor.access, [(id, &spec)]);
            Ok(Redirect::to(&format!("/sites/{id}")).into_response())
        }
        Err(error @ (picket_store::Error::Invalid(_) | picket_store::Error::DuplicateSite)) => {
            render_form(&visitor, &api, values, Some(error.to_string())).await
        }
        Err(error) => Err(visitor.fail(error)),
    }
}

impl NewSite {
    fn parse(body: &[u8]) -> Self {
        let mut values = Self::default();
        for (name, value) in form_urlencoded::parse(body) {
            let value = value.trim().to_owned();
            match &*name {
                "url" => values.url = value,
                "name" => values.name = value,
                "interval" => values.interval = value,
                "timeout" => values.timeout = value,
                "tags" => values.tags = value,
                "regex" => values.regex = value,
                "region" => values.regions.push(value),
                _ => {}
            }
        }
        values
    }

    /// The site; fields that the form leaves empty have their defaults.
    fn to_spec(&self) -> Result<SiteSpec, ValidationError> {
        let set = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let tags: Vec<String> =
            self.tags.split(',').map(|tag| tag.trim().to_owned()).filter(|tag| !tag.is_empty()).collect();
        let fields = SiteFields {
            url: self.url.clone(),
            name: set(&self.name).map(Some),
            interval: set(&self.interval),
            timeout: set(&self.timeout),
            tags: Some(tags),
            regex: set(&self.regex).map(Some),
            regions: Some(self.regions.clone()),
            ..SiteFields::default()
        };
        fields.into_spec()
    }

    fn has_region(&self, region: &str) -> bool {
        self.regions.iter().any(|chosen| chosen == region)
    }
}

/// What to do with the marked sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BulkAction {
    Pause,
    Resume,
    Remove,
}

/// The marked sites with the versions that the page shows, the action, and whether to return to the site.
#[derive(Debug, PartialEq, Eq)]
struct BulkForm {
    sites: Vec<(SiteId, SiteVersion)>,
    action: BulkAction,
    returns_to_site: bool,
}

impl BulkForm {
    fn parse(body: &[u8]) -> Result<Self, ValidationError> {
        let (mut sites, mut action, mut returns_to_site) = (Vec::new(), None, false);
        for (name, value) in form_urlencoded::parse(body) {
            match &*name {
                "site" => {
                    let parts = value
                        .split_once(':')
                        .and_then(|(id, version)| Some((SiteId(id.parse().ok()?), version.parse().ok()?)));
                    let allowed = "the number and the version of a site, such as 7:1042";
                    sites.push(parts.ok_or_else(|| ValidationError::new("site", &value, allowed))?);
                }
                "action" => {
                    action = Some(match &*value {
                        "pause" => BulkAction::Pause,
                        "resume" => BulkAction::Resume,
                        "remove" => BulkAction::Remove,
                        _ => return Err(ValidationError::new("action", &value, "pause, resume or remove")),
                    });
                }
                "back" => returns_to_site = value == "site",
                _ => {}
            }
        }
        if sites.len() > MAX_MARKED {
            return Err(ValidationError::new(
                "site",
                sites.len(),
                format!("at most {MAX_MARKED} sites at once"),
            ));
        }
        let action = action.ok_or_else(|| ValidationError::new("action", "", "pause, resume or remove"))?;
        Ok(Self { sites, action, returns_to_site })
    }
}

/// Changes the marked sites, all or none. Sites that differ from what the page showed are named, and none is changed.
pub(super) async fn change_sites(
    visitor: Visitor,
    State(api): State<Api>,
    FormText(body): FormText,
) -> Result<Response, PageError> {
    visitor.require_scope(Scope::Write)?;
    let form = BulkForm::parse(&body)
        .map_err(|error| visitor.fail(Problem::invalid_field(format!("/{}", error.field), &error)))?;
    let (mut changes, mut names, mut changed) = (SiteChanges::default(), HashMap::new(), Vec::new());
    for (id, version) in &form.sites {
        let found = sites::read_versioned_site(&api.store, *id, visitor.access.tag_limit())
            .await
            .map_err(|error| visitor.fail(error))?;
        // A site that the reader may not see does not exist for them.
        let Some(found) = found else {
            changed.push(format!("site {id}"));
            continue;
        };
        let name = found.site.spec.as_ref().ok().and_then(|spec| spec.name.clone());
        let name = name.unwrap_or_else(|| found.site.url.clone());
        if found.version != *version {
            changed.push(name);
            continue;
        }
        names.insert(*id, name);
        changes.expected.insert(*id, *version);
        if form.action == BulkAction::Remove {
            check_removal(&visitor.access, *id, found.site.spec.as_ref())
                .map_err(|problem| visitor.fail(problem))?;
            changes.deletes.push(*id);
            continue;
        }
        let spec = found.site.spec.map_err(|error| {
            let detail = format!("site {id} has a value that only SQL can mend: {error}");
            visitor.fail(Problem::new(ProblemKind::Conflict, detail))
        })?;
        changes.updates.push((*id, SiteSpec { enabled: form.action == BulkAction::Resume, ..spec }));
    }
    if !changed.is_empty() {
        return Err(visitor.fail(describe_changed_sites(&changed)));
    }
    sites::apply_changes(&api.store, &changes).await.map_err(|error| match error {
        picket_store::Error::SiteChanged(id) => {
            let name = names.get(&id).cloned().unwrap_or_else(|| format!("site {id}"));
            visitor.fail(describe_changed_sites(&[name]))
        }
        error => visitor.fail(error),
    })?;
    let target = match form.sites.as_slice() {
        [(site, _)] if form.returns_to_site => format!("/sites/{site}"),
        _ => "/sites".to_owned(),
    };
    Ok(Redirect::to(&target).into_response())
}

/// The conflict with changes of others since the page was shown.
fn describe_changed_sites(names: &[String]) -> Problem {
    const MAX_NAMED: usize = 20;
    let named: Vec<String> = names.iter().take(MAX_NAMED).map(|name| sanitize_text(name, 200)).collect();
    let more = match names.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        count => format!(" and {count} more"),
    };
    let detail = format!(
        "Nothing was done, since these sites were changed or removed after the page was shown: {}{more}. Load the \
         page again and repeat the action.",
        named.join(", ")
    );
    Problem::new(ProblemKind::Conflict, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_becomes_a_site_with_defaults_for_what_is_empty() {
        let values = NewSite::parse(
            b"url=https%3A%2F%2Fexample.com&name=&interval=30s&tags=a%2C+b+&region=eu&region=us&regex=",
        );
        let spec = values.to_spec().unwrap();
        assert_eq!(
            (spec.check.url.as_str(), spec.interval_seconds, spec.name),
            ("https://example.com", 30, None)
        );
        assert_eq!(
            (spec.tags, spec.regions),
            (vec!["a".to_owned(), "b".to_owned()], vec!["eu".to_owned(), "us".to_owned()])
        );
        assert!(
            NewSite { interval: "soon".to_owned(), ..values }
                .to_spec()
                .unwrap_err()
                .to_string()
                .contains("'soon'")
        );
    }

    #[test]
    fn an_action_names_its_sites_and_is_bounded() {
        let form = BulkForm::parse(b"site=7%3A1042&site=8:1043&action=pause").unwrap();
        assert_eq!(
            (form.sites, form.action, form.returns_to_site),
            (vec![(SiteId(7), SiteVersion(1042)), (SiteId(8), SiteVersion(1043))], BulkAction::Pause, false)
        );
        for body in [
            "site=7:1",
            "site=x:1&action=pause",
            // Without a version the action could undo what another has changed.
            "site=7&action=pause",
            "site=7:&action=pause",
            "site=7:1&action=explode",
            &"site=7:1&".repeat(201),
        ] {
            assert!(BulkForm::parse(body.as_bytes()).is_err(), "{body}");
        }
    }
}
