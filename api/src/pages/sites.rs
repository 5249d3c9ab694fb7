//! The list of sites: filtered, sorted and paged by the database.

use askama::Template;
use axum::{extract::State, response::Response};
use picket_proto::{RegionName, Timestamp, ValidationError};
use picket_store::{
    site_list::{self, Direction, MatchCount, Page, SiteFilter, SiteSort, SiteState, SiteSummary},
    sites::SiteVersion,
};

use super::{
    PageError, Visitor,
    frame::{Frame, Section},
    incidents::list_region_names,
    input::PageQuery,
    overview::count_nouns,
    parts::{Behind, Pager, SortLink, StatusMark, TagLink, format_percent},
    render_page,
};
use crate::{
    access::Scope,
    charts::{CellState, StripCell, draw_strip, format_day, format_duration},
    problem::Problem,
    state::Api,
};

/// Sites on a page.
const PAGE_ROWS: u32 = 50;
/// Number up to which the sites that a filter selects are counted.
const MAX_COUNTED: i64 = 200;
/// Days of the drawing of each site.
const STRIP_DAYS: usize = 90;

/// Filter and order of the list, as in the address.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(default)]
pub(crate) struct SiteQuery {
    pub(crate) q: String,
    pub(crate) status: String,
    pub(crate) tag: String,
    pub(crate) region: String,
    pub(crate) sort: String,
    pub(crate) cursor: String,
}

impl SiteQuery {
    /// Whether any site may be left out.
    pub(crate) fn is_set(&self) -> bool {
        [&self.q, &self.status, &self.tag, &self.region].into_iter().any(|value| !value.is_empty())
    }

    pub(crate) fn has_status(&self, word: &str) -> bool {
        self.status == word
    }

    /// Address of the list with this filter; parameters without a value are left out.
    pub(crate) fn address(&self) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        let pairs = [
            ("q", &self.q),
            ("status", &self.status),
            ("tag", &self.tag),
            ("region", &self.region),
            ("sort", &self.sort),
            ("cursor", &self.cursor),
        ];
        for (name, value) in pairs.into_iter().filter(|(_, value)| !value.is_empty()) {
            query.append_pair(name, value);
        }
        let query = query.finish();
        if query.is_empty() { "/sites".to_owned() } else { format!("/sites?{query}") }
    }

    /// The first page of the list in another order. The same order once more is reversed, with `-` before its name.
    pub(crate) fn sorted_by(&self, key: &str) -> Self {
        let sort = if self.sort == key { format!("-{key}") } else { key.to_owned() };
        Self { sort, cursor: String::new(), ..self.clone() }
    }

    /// Heading of a column that sorts by `key`.
    pub(crate) fn link_column(&self, name: &'static str, key: &str, is_number: bool) -> SortLink {
        let direction = match self.sort.strip_prefix('-') {
            Some(reversed) if reversed == key => Some("descending"),
            None if self.sort == key => Some("ascending"),
            _ => None,
        };
        SortLink { name, href: Some(self.sorted_by(key).address()), direction, is_number }
    }
}

/// A site in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SiteRow {
    pub(crate) id: i64,
    /// Version that the page shows, of which an action is.
    pub(crate) version: SiteVersion,
    pub(crate) name: String,
    /// The URL, if the site has another name.
    pub(crate) url: Option<String>,
    pub(crate) status: StatusMark,
    pub(crate) tags: Vec<TagLink>,
    pub(crate) uptime: String,
    pub(crate) coverage: String,
    pub(crate) p95: String,
    /// The last 90 days as a drawing.
    pub(crate) strip: String,
}

/// Shows a page of the list.
pub(super) async fn show_sites(
    visitor: Visitor,
    State(api): State<Api>,
    PageQuery(query): PageQuery<SiteQuery>,
) -> Result<Response, PageError> {
    let selection = query
        .to_selection()
        .map_err(|error| visitor.fail(Problem::from(picket_store::Error::from(error))))?;
    let filter = SiteFilter { tag_limit: visitor.access.tag_limit(), ..selection.to_filter(&query) };
    let (sort, direction) = selection.order;
    let cursor = Some(query.cursor.as_str()).filter(|cursor| !cursor.is_empty());
    let listed = site_list::list_sites_page(&api.store, &filter, sort, direction, cursor, PAGE_ROWS);
    let page = listed.await.map_err(|error| visitor.fail(error))?;
    let count = site_list::count_sites(&api.store, &filter, MAX_COUNTED);
    let count = count.await.map_err(|error| visitor.fail(error))?;
    let regions = list_region_names(&visitor, &api).await?;
    let frame = visitor.frame("Sites", Section::Sites);
    let may_write = visitor.access.allows(Scope::Write);
    Ok(render_page(&SitesPage::new(frame, query, page, count, regions, may_write, &api.public_url())))
}

/// The parsed values of a query.
struct Selection {
    states: Vec<SiteState>,
    region: Option<RegionName>,
    order: (SiteSort, Direction),
}

impl Selection {
    fn to_filter<'a>(&'a self, query: &'a SiteQuery) -> SiteFilter<'a> {
        let set = |text: &'a str| Some(text.trim()).filter(|text| !text.is_empty());
        SiteFilter {
            status: &self.states,
            tag: set(&query.tag),
            region: self.region.as_ref(),
            query: set(&query.q),
            ..SiteFilter::default()
        }
    }
}

impl SiteQuery {
    /// # Errors
    /// If a value is none of those allowed.
    fn to_selection(&self) -> Result<Selection, ValidationError> {
        let states = match self.status.as_str() {
            "" => Vec::new(),
            word => vec![word.parse()?],
        };
        let region = match self.region.as_str() {
            "" => None,
            name => Some(name.parse()?),
        };
        let (key, direction) = match self.sort.strip_prefix('-') {
            Some(key) => (key, Direction::Descending),
            None => (self.sort.as_str(), Direction::Ascending),
        };
        // What needs attention comes first, unless the reader chooses another order.
        let sort = if key.is_empty() { SiteSort::State } else { key.parse()? };
        Ok(Selection { states, region, order: (sort, direction) })
    }
}

/// Cells of the last `count` days of a site's letters, of which the last is for `through`.
pub(super) fn list_days(letters: &str, through: Option<&str>, count: usize) -> Vec<StripCell> {
    const DAY_US: i64 = 86_400_000_000;
    let last: Option<Timestamp> = through.and_then(|day| format!("{day}T00:00:00Z").parse().ok());
    let skipped = letters.chars().count().saturating_sub(count);
    let shown = letters.chars().skip(skipped);
    let total = i64::try_from(letters.chars().count() - skipped).unwrap_or(0);
    shown
        .zip(1..)
        .map(|(letter, n)| {
            let day = last.map(|last| Timestamp::from_micros(last.as_micros() - (total - n) * DAY_US));
            let label = day.map_or_else(|| format!("{} days ago", total - n), format_day);
            StripCell { state: CellState::from_day_code(letter), label, detail: String::new() }
        })
        .collect()
}

impl SiteRow {
    fn new(summary: &SiteSummary) -> Self {
        let cells = list_days(&summary.days, summary.days_through.as_deref(), STRIP_DAYS);
        Self {
            id: summary.site_id,
            version: summary.version,
            name: summary.site.clone(),
            url: (summary.url != summary.site).then(|| summary.url.clone()),
            status: mark_status(summary),
            tags: summary.tags.iter().map(|tag| TagLink::new(tag)).collect(),
            uptime: format_percent(summary.uptime_30d_pct),
            coverage: format_percent(summary.coverage_30d_pct),
            p95: summary.p95_us.map_or_else(|| "–".to_owned(), |micros| format_duration(f64::from(micros))),
            strip: draw_strip("days", &cells, false).svg,
        }
    }
}

/// Mark of a site: a warning shows only while the site is up.
pub(super) fn mark_status(summary: &SiteSummary) -> StatusMark {
    match summary.state {
        SiteState::Up if !summary.warnings.is_empty() => StatusMark::Warning,
        state => StatusMark::from_word(state.as_str()),
    }
}

/// The number of sites, within a sentence.
fn describe_count(count: MatchCount, is_filtered: bool) -> String {
    let (before, number) = match count {
        MatchCount::Exactly(number) => ("", number),
        MatchCount::MoreThan(number) => ("more than ", number),
    };
    let after = if is_filtered { " match" } else { "" };
    format!("{before}{}{after}", count_nouns(number, "site"))
}

impl SitesPage {
    fn new(
        frame: Frame,
        query: SiteQuery,
        page: Page<SiteSummary>,
        count: MatchCount,
        regions: Vec<String>,
        may_write: bool,
        public_url: &str,
    ) -> Self {
        let first = (!query.cursor.is_empty())
            .then(|| SiteQuery { cursor: String::new(), ..query.clone() }.address());
        let next = page.next_cursor.map(|cursor| SiteQuery { cursor, ..query.clone() }.address());
        let columns = vec![
            query.link_column("Status", "state", false),
            query.link_column("Site", "name", false),
            query.link_column("Uptime 30 d", "uptime_30d", true),
            SortLink { name: "Coverage 30 d", href: None, direction: None, is_number: true },
            query.link_column("p95 24 h", "p95", true),
            SortLink { name: "Last 90 days", href: None, direction: None, is_number: false },
        ];
        let counted = describe_count(count, query.is_set());
        let api_query = query.address().replacen("/sites", "", 1);
        Self {
            frame,
            subline: counted.replacen("more than", "More than", 1),
            may_write,
            statuses: SiteState::ALL_STATES.map(SiteState::as_str),
            regions,
            columns,
            rows: page.items.iter().map(SiteRow::new).collect(),
            pager: Pager { shown: format!("{} of {counted}", page.items.len()), first, next },
            behind: Behind {
                sql: "SELECT * FROM report.site_status ORDER BY status, since;".to_owned(),
                command: "picket status".to_owned(),
                curl: format!("curl '{public_url}/api/v1/sites{api_query}'"),
            },
            filter: query,
        }
    }
}

/// See the module documentation.
#[derive(Template)]
#[template(path = "sites.html")]
pub(crate) struct SitesPage {
    pub(crate) frame: Frame,
    pub(crate) subline: String,
    pub(crate) may_write: bool,
    pub(crate) filter: SiteQuery,
    pub(crate) statuses: [&'static str; 5],
    pub(crate) regions: Vec<String>,
    pub(crate) columns: Vec<SortLink>,
    pub(crate) rows: Vec<SiteRow>,
    pub(crate) pager: Pager,
    pub(crate) behind: Behind,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_only_what_is_set_and_escapes_it() {
        assert_eq!(SiteQuery::default().address(), "/sites");
        let filter = SiteQuery { q: "a&b c".to_owned(), tag: "é".to_owned(), ..SiteQuery::default() };
        assert_eq!(filter.address(), "/sites?q=a%26b+c&tag=%C3%A9");
    }

    #[test]
    fn letters_end_with_the_day_that_they_are_for() {
        let cells = list_days("-ud", Some("2026-03-01"), 2);
        let labels: Vec<_> = cells.iter().map(|cell| (cell.label.as_str(), cell.state)).collect();
        assert_eq!(labels, [("28 Feb 2026", CellState::Up), ("1 Mar 2026", CellState::Down)]);
        assert!(list_days("", None, 90).is_empty());
    }

    #[test]
    fn a_count_says_whether_there_are_more() {
        assert_eq!(describe_count(MatchCount::Exactly(1), true), "1 site match");
        assert_eq!(describe_count(MatchCount::Exactly(0), false), "0 sites");
        assert_eq!(describe_count(MatchCount::MoreThan(100), true), "more than 100 sites match");
    }

    #[test]
    fn a_query_is_refused_by_field_and_value() {
        let refuse =
            |query: SiteQuery| query.to_selection().err().map(|error| error.to_string()).unwrap_or_default();
        assert!(refuse(SiteQuery { status: "best".to_owned(), ..SiteQuery::default() }).contains("'best'"));
        assert!(refuse(SiteQuery { sort: "-size".to_owned(), ..SiteQuery::default() }).contains("'size'"));
        assert_eq!(refuse(SiteQuery { sort: "-p95".to_owned(), ..SiteQuery::default() }), "");
    }

    #[test]
    fn a_column_sorts_and_then_reverses_from_the_first_page() {
        let filter = SiteQuery { cursor: "x".to_owned(), ..SiteQuery::default() };
        let link = filter.link_column("p95", "p95", true);
        assert_eq!((link.href.as_deref(), link.direction), (Some("/sites?sort=p95"), None));
        let link = filter.sorted_by("p95").link_column("p95", "p95", true);
        assert_eq!((link.href.as_deref(), link.direction), (Some("/sites?sort=-p95"), Some("ascending")));
        let reversed = filter.sorted_by("p95").sorted_by("p95").link_column("p95", "p95", true);
        assert_eq!(reversed.direction, Some("descending"));
    }
}
