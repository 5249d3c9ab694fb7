//! Silences: the list, a form for a new one, and their end.

use std::collections::BTreeMap;

use axum::{
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use picket_proto::{SiteId, Timestamp, ValidationError};
use picket_runtime::clock;
use picket_store::{
    Error,
    silences::{
        self, NewSilence, SilenceFilter, SilenceTarget, SilenceWindow, change_silence, remove_silence,
    },
    sites::read_versioned_site,
};
use serde::Deserialize;

use super::{
    PageError, Visitor,
    channels::render_form_page,
    frame::Section,
    input::{PageForm, PagePath, PageQuery},
    list_page::{Cell, FormField, FormView, ListPage, MAX_ROWS, Tab, TableView},
    maintenance::parse_moment,
    parts::Behind,
};
use crate::{
    access::Scope,
    problem::{Problem, ProblemKind},
    state::Api,
    v1::require_tag,
};

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct SilenceQuery {
    site: String,
}

/// Shows the silences, past ones too.
pub(super) async fn show_silences(
    visitor: Visitor,
    State(api): State<Api>,
    PageQuery(query): PageQuery<SilenceQuery>,
) -> Result<Response, PageError> {
    render_silences(&visitor, &api, build_form(&query.site)).await
}

/// Renders the silences with the form of a new one.
async fn render_silences(visitor: &Visitor, api: &Api, form: FormView) -> Result<Response, PageError> {
    // One row more shows that there are others.
    let limit = i64::try_from(MAX_ROWS + 1).ok();
    let filter =
        SilenceFilter { over: true, tags: visitor.access.tag_limit(), limit, ..SilenceFilter::default() };
    let found = silences::list_silences(&api.store, filter).await.map_err(|error| visitor.fail(error))?;
    let subline = "In a silence incidents open and are recorded, and nobody is told; what is still down at its end is told \
                   then. For planned work use maintenance: then no incident opens.";
    let mut page = ListPage::new(visitor.frame("Silences", Section::Notifications), "Silences", subline);
    page.tabs = Tab::list("/silences");
    let may_write = visitor.access.allows(Scope::Write);
    if may_write {
        page.forms.push(form);
    }
    page.tables.push(tabulate_silences(&found, may_write).with_behind(Behind {
        sql: "SELECT * FROM picket.silences ORDER BY starts_at DESC;".to_owned(),
        command: "picket silence list --all".to_owned(),
        curl: format!("curl '{}/api/v1/silences?all=true'", api.public_url()),
    }));
    Ok(render_form_page(&page))
}

/// Values of the form.
#[derive(Clone, Deserialize)]
pub(crate) struct SilenceForm {
    #[serde(default)]
    site: String,
    #[serde(default)]
    tag: String,
    #[serde(default)]
    all: String,
    #[serde(default)]
    to: String,
    #[serde(default)]
    reason: String,
}

/// Adds a silence from now on, or shows the form again with the reason why not.
pub(super) async fn add_silence(
    visitor: Visitor,
    State(api): State<Api>,
    PageForm(form): PageForm<SilenceForm>,
) -> Result<Response, PageError> {
    visitor.require_scope(Scope::Write)?;
    let refused = match insert_silence(&visitor, &api, &form).await {
        Ok(()) => return Ok(Redirect::to("/silences").into_response()),
        Err(Refused::Field(error)) => error,
        Err(Refused::Page(error)) => return Err(error),
    };
    let form = build_form("").with_refusal(&form.typed(), &refused);
    render_silences(&visitor, &api, form).await
}

/// Why a silence was not added.
enum Refused {
    /// A field of the form is not allowed.
    Field(ValidationError),
    /// The reader may not do it, or the database failed.
    Page(PageError),
}

impl From<ValidationError> for Refused {
    fn from(error: ValidationError) -> Self {
        Self::Field(error)
    }
}

impl From<PageError> for Refused {
    fn from(error: PageError) -> Self {
        Self::Page(error)
    }
}

async fn insert_silence(visitor: &Visitor, api: &Api, form: &SilenceForm) -> Result<(), Refused> {
    let target = form.target()?;
    let limit = visitor.access.tag_limit();
    match &target {
        SilenceTarget::Site(site) => {
            let found = read_versioned_site(&api.store, *site, limit).await;
            if found.map_err(|error| visitor.fail(error))?.is_none() {
                return Err(
                    ValidationError::new("site", site, "the number of a site, as in its address").into()
                );
            }
        }
        SilenceTarget::Tag(tag) => {
            drop(require_tag(&visitor.access, "/tag", tag.clone()).map_err(|problem| visitor.fail(problem))?);
        }
        SilenceTarget::All => visitor.access.require_all_sites().map_err(|problem| visitor.fail(problem))?,
    }
    let now = clock::wall_clock_now();
    let new = NewSilence {
        target,
        from: now,
        to: form.end(now)?,
        reason: form.reason.trim().to_owned(),
        created_by: Some(visitor.access.name.clone()),
    };
    match silences::add_silence(&api.store, &new).await {
        Ok(_) => Ok(()),
        Err(Error::Invalid(error)) => Err(error.into()),
        Err(error) => Err(visitor.fail(error).into()),
    }
}

/// Ends a silence now, or removes one that has not begun.
pub(super) async fn end_silence(
    visitor: Visitor,
    State(api): State<Api>,
    PagePath(id): PagePath<i64>,
) -> Result<Response, PageError> {
    visitor.require_scope(Scope::Write)?;
    let tags = visitor.access.tag_limit();
    let filter = SilenceFilter { over: true, id: Some(id), tags, ..SilenceFilter::default() };
    let found = silences::list_silences(&api.store, filter).await.map_err(|error| visitor.fail(error))?;
    let Some(silence) = found.into_iter().next() else {
        return Err(visitor.fail(Problem::new(ProblemKind::NotFound, format!("There is no silence {id}."))));
    };
    let done = match silence.state.as_str() {
        "over" => Ok(true),
        "planned" => remove_silence(&api.store, id, Some(&silence.version)).await,
        _ => {
            let now = api.store.read_clock().await.map_err(|error| visitor.fail(error))?;
            change_silence(&api.store, &silence, now, &silence.reason).await
        }
    };
    match done.map_err(|error| visitor.fail(error))? {
        true => Ok(Redirect::to("/silences").into_response()),
        false => {
            let detail = format!("somebody has changed silence {id} at the same time; try again");
            Err(visitor.fail(Problem::new(ProblemKind::Conflict, detail)))
        }
    }
}

impl SilenceForm {
    fn typed(&self) -> BTreeMap<String, String> {
        let fields = [
            ("site", &self.site),
            ("tag", &self.tag),
            ("all", &self.all),
            ("to", &self.to),
            ("reason", &self.reason),
        ];
        fields.map(|(name, value)| (name.to_owned(), value.clone())).into()
    }

    fn target(&self) -> Result<SilenceTarget, ValidationError> {
        let is_all = self.all.trim() == "yes";
        match (self.site.trim(), self.tag.trim()) {
            ("", "") if is_all => Ok(SilenceTarget::All),
            ("", "") => {
                Err(ValidationError::new("site", "", "the number of a site, or else a tag or all sites"))
            }
            ("", tag) if !is_all => Ok(SilenceTarget::Tag(tag.to_owned())),
            (site, "") if !is_all => {
                let id =
                    site.parse().map_err(|_| ValidationError::new("site", site, "the number of a site"))?;
                Ok(SilenceTarget::Site(SiteId(id)))
            }
            (site, "") => {
                Err(ValidationError::new("site", site, "nothing, because the silence is for all sites"))
            }
            (_, tag) => {
                Err(ValidationError::new("tag", tag, "nothing, because the silence is for others already"))
            }
        }
    }

    fn end(&self, now: Timestamp) -> Result<Timestamp, ValidationError> {
        let allowed = "an end, such as +2h or 2026-12-01 22:00, so that no silence is forgotten";
        parse_moment("to", &self.to, now)?.ok_or_else(|| ValidationError::new("to", &self.to, allowed))
    }
}

fn build_form(site: &str) -> FormView {
    let field = |name, label, value: &str, placeholder| FormField {
        name,
        label,
        value: value.to_owned(),
        placeholder,
        ..FormField::default()
    };
    FormView {
        name: "New silence",
        prefix: "silence",
        action: "/silences".to_owned(),
        is_post: true,
        is_panel: true,
        fields: vec![
            field("site", "Site number", site, ""),
            field("tag", "or tag", "", ""),
            FormField {
                options: ["no", "yes"].map(|word| (word.to_owned(), word.to_owned())).into(),
                ..field("all", "or all sites", "no", "")
            },
            field("to", "Until (UTC, or from now)", "+2h", "2026-12-02 02:00"),
            field("reason", "Reason", "", "the provider works on it"),
        ],
        button: "Silence from now on",
        ..FormView::default()
    }
}

fn tabulate_silences(found: &[SilenceWindow], may_write: bool) -> TableView {
    let mut columns = vec!["State", "For", "From (UTC)", "To (UTC)", "Reason", "By"];
    columns.extend(may_write.then_some("End"));
    TableView::new("silences", "Silences, the newest first", &columns)
        .with_empty(
            "There is no silence, so channels are told of every incident that their routes name. The form above adds \
             one, and so does:",
            "picket silence add SITE --to +2h --reason TEXT",
        )
        .with_rows(found.iter().map(|silence| {
            let target = match (silence.site_id, &silence.tag) {
                (Some(id), _) => Cell::site(id, silence.site.clone().unwrap_or_else(|| format!("site {id}"))),
                (None, Some(tag)) if silence.warnings.is_empty() => Cell::text(format!("tag {tag}")),
                (None, Some(tag)) => Cell::text(format!("tag {tag}, which no site has")),
                (None, None) => Cell::text("all sites"),
            };
            let mut row = vec![
                Cell::text(&silence.state),
                target,
                Cell::time(Some(silence.from)),
                Cell::time(Some(silence.to)),
                Cell::text(&silence.reason),
                Cell::text(&silence.created_by),
            ];
            row.extend(may_write.then(|| match silence.state.as_str() {
                "over" => Cell::text("–"),
                "planned" => Cell::Button("Remove", format!("/silences/{}/end", silence.id)),
                _ => Cell::Button("End now", format!("/silences/{}/end", silence.id)),
            }));
            row
        }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_is_for_a_site_a_tag_or_all_and_has_an_end() {
        let form = |site: &str, tag: &str, all: &str, to: &str| SilenceForm {
            site: site.to_owned(),
            tag: tag.to_owned(),
            all: all.to_owned(),
            to: to.to_owned(),
            reason: String::new(),
        };
        assert_eq!(form("7", "", "no", "").target(), Ok(SilenceTarget::Site(SiteId(7))));
        assert_eq!(form("", "shop", "no", "").target(), Ok(SilenceTarget::Tag("shop".to_owned())));
        assert_eq!(form("", "", "yes", "").target(), Ok(SilenceTarget::All));
        for (site, tag, all) in
            [("", "", "no"), ("7", "shop", "no"), ("7", "", "yes"), ("", "shop", "yes"), ("x", "", "no")]
        {
            assert!(form(site, tag, all, "").target().is_err(), "{site} {tag} {all}");
        }
        let now: Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
        assert!(form("7", "", "no", "").end(now).is_err());
        assert!(form("7", "", "no", "+2h").end(now).unwrap() > now);
    }
}
