//! Selection of sites.

use picket_proto::{RegionName, SiteId, ValidationError};
use sqlx::{Postgres, QueryBuilder};

use super::SiteState;

/// Conditions that all must hold.
#[derive(Clone, Copy, Debug, Default)]
pub struct SiteFilter<'a> {
    /// States, of which one must be the site's; any if empty.
    pub status: &'a [SiteState],
    /// A tag of the site.
    pub tag: Option<&'a str>,
    /// A region that checks the site.
    pub region: Option<&'a RegionName>,
    /// Words, each in the name, the URL or a tag of the site. Case is ignored.
    pub query: Option<&'a str>,
    /// Whether the site is enabled.
    pub enabled: Option<bool>,
    /// Sites to choose from.
    pub ids: Option<&'a [SiteId]>,
    /// Tags of which the site must have one: the limit of a token. An empty limit selects nothing.
    pub tag_limit: Option<&'a [String]>,
}

pub(super) const CONDITIONS_JOIN: &str =
    "JOIN picket.site_conditions AS condition ON condition.site_id = site.id";
pub(super) const STATISTICS_JOIN: &str =
    "JOIN picket.site_statistics AS statistic ON statistic.site_id = site.id";
pub(super) const TEXTS_JOIN: &str = "JOIN picket.site_texts AS text ON text.site_id = site.id";

impl SiteFilter<'_> {
    const MAX_QUERY_BYTES: usize = 200;
    const MAX_QUERY_WORDS: usize = 8;

    pub(super) fn validate(&self) -> Result<(), ValidationError> {
        let Some(query) = self.query else { return Ok(()) };
        let is_allowed = query.len() <= Self::MAX_QUERY_BYTES
            && query.split_whitespace().count() <= Self::MAX_QUERY_WORDS
            && !query.contains('\0');
        if is_allowed {
            return Ok(());
        }
        let allowed = format!(
            "at most {} bytes, at most {} words, without NUL",
            Self::MAX_QUERY_BYTES,
            Self::MAX_QUERY_WORDS
        );
        Err(ValidationError::new("q", query, allowed))
    }

    /// True if the numbers of sites in each state answer the question.
    pub(super) fn selects_by_status_alone(&self) -> bool {
        let Self { status: _, tag, region, query, enabled, ids, tag_limit } = self;
        tag.is_none()
            && region.is_none()
            && query.is_none()
            && enabled.is_none()
            && ids.is_none()
            && tag_limit.is_none()
    }

    /// Joins of the tables that the conditions read, besides `joined`.
    pub(super) fn joins_besides(&self, joined: Option<&str>) -> impl Iterator<Item = &'static str> {
        let needed = [
            (!self.status.is_empty()).then_some(CONDITIONS_JOIN),
            self.query.is_some().then_some(TEXTS_JOIN),
        ];
        let joined = joined.map(str::to_owned);
        needed.into_iter().flatten().filter(move |join| Some(*join) != joined.as_deref())
    }

    pub(super) fn push_joins(&self, query: &mut QueryBuilder<Postgres>) {
        for join in self.joins_besides(None) {
            query.push(" ").push(join);
        }
    }

    /// Adds the conditions, each preceded by AND. `matched` has the selected sites, if
    /// they are few.
    pub(super) fn push_conditions(&self, query: &mut QueryBuilder<Postgres>, matched: Option<&[i64]>) {
        if !self.status.is_empty() {
            // Literals of fixed words: the planner does not estimate a cast of a parameter.
            let states: Vec<String> =
                self.status.iter().map(|state| format!("'{}'", state.as_str())).collect();
            query.push(format!(" AND condition.state IN ({})", states.join(", ")));
        }
        if let Some(tag) = self.tag {
            query.push(" AND site.tags @> ARRAY[").push_bind(tag.to_owned()).push("]");
        }
        if let Some(region) = self.region {
            query.push(" AND (site.regions = '{}' OR ").push_bind(region.as_str().to_owned());
            query.push(" = ANY (site.regions))");
        }
        if let Some(enabled) = self.enabled {
            query.push(" AND site.enabled = ").push_bind(enabled);
        }
        if let Some(ids) = self.ids {
            let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
            query.push(" AND site.id = ANY (").push_bind(ids).push(")");
        }
        if let Some(tags) = self.tag_limit {
            query.push(" AND site.tags && ").push_bind(tags.to_vec());
        }
        match matched {
            Some(ids) => drop(query.push(" AND site.id = ANY (").push_bind(ids.to_vec()).push(")")),
            None => self.push_words(query, false),
        }
    }

    /// Builds the statement that finds by the indexes which sites the filter selects, up to one more
    /// than `max_matches`; `None` if no condition has an index or selects few sites.
    pub(super) fn build_search(&self, max_matches: i64) -> Option<QueryBuilder<Postgres>> {
        let has_words = self.query.is_some_and(|query| query.split_whitespace().any(has_ngrams));
        let is_trouble = !self.status.is_empty() && !self.status.contains(&SiteState::Up);
        if !has_words && !is_trouble && self.tag.is_none() && self.tag_limit.is_none() {
            return None;
        }
        let mut query = QueryBuilder::new("SELECT site.id FROM picket.sites AS site");
        self.push_joins(&mut query);
        query.push(" WHERE true");
        Self { query: None, ..*self }.push_conditions(&mut query, None);
        self.push_words(&mut query, true);
        query.push(" LIMIT ").push_bind(max_matches.saturating_add(1));
        Some(query)
    }

    /// Adds a condition for each word. The conditions on n-grams use the index.
    fn push_words(&self, query: &mut QueryBuilder<Postgres>, by_index: bool) {
        for word in self.query.unwrap_or_default().split_whitespace() {
            if by_index && has_ngrams(word) {
                query.push(" AND text.ngrams @> picket.ngrams(lower(").push_bind(word.to_owned()).push("))");
            }
            query.push(" AND text.searched LIKE '%' || lower(").push_bind(escape_like(word)).push(") || '%'");
        }
    }
}

/// Returns true if the word has parts of two characters.
fn has_ngrams(word: &str) -> bool {
    word.chars().nth(1).is_some()
}

/// Escapes the characters with a meaning in a LIKE pattern.
fn escape_like(word: &str) -> String {
    word.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_")
}
