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

/// A table with a row for each site, under its name in statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SiteTable {
    Sites,
    Conditions,
    Statistics,
    Texts,
}

impl SiteTable {
    pub(super) fn source(self) -> &'static str {
        match self {
            Self::Sites => "picket.sites AS site",
            Self::Conditions => "picket.site_conditions AS condition",
            Self::Statistics => "picket.site_statistics AS statistic",
            Self::Texts => "picket.site_texts AS text",
        }
    }

    pub(super) fn id_column(self) -> &'static str {
        match self {
            Self::Sites => "site.id",
            Self::Conditions => "condition.site_id",
            Self::Statistics => "statistic.site_id",
            Self::Texts => "text.site_id",
        }
    }
}

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

    /// True if nothing but words is asked for.
    pub(super) fn selects_by_words_alone(&self) -> bool {
        let Self { status, tag, region, query, enabled, ids, tag_limit } = self;
        query.is_some()
            && status.is_empty()
            && tag.is_none()
            && region.is_none()
            && enabled.is_none()
            && ids.is_none()
            && tag_limit.is_none()
    }

    /// Adds SELECT with `columns`, given the column of the site's id, FROM with the tables that the
    /// conditions read, `first` before them, and WHERE. Returns that column.
    pub(super) fn push_select(
        &self,
        query: &mut QueryBuilder<Postgres>,
        first: Option<SiteTable>,
        columns: impl FnOnce(&str) -> String,
    ) -> &'static str {
        let Self { status, tag, region, query: words, enabled, ids: _, tag_limit } = self;
        let has_words = words.is_some();
        let reads_sites = tag.is_some() || region.is_some() || enabled.is_some() || tag_limit.is_some();
        // Only texts go with their site at once; rows of the other tables may outlive it.
        let has_texts = has_words || first == Some(SiteTable::Texts);
        let needed = [
            (reads_sites || !has_texts, SiteTable::Sites),
            (!status.is_empty(), SiteTable::Conditions),
            (has_words, SiteTable::Texts),
        ];
        let needed = needed.into_iter().filter_map(|(is_needed, table)| is_needed.then_some(table));
        let mut tables = first.into_iter().chain(needed.filter(|table| Some(*table) != first));
        let leading = tables.next().unwrap_or(SiteTable::Sites);
        let id = leading.id_column();
        query.push(format!("SELECT {} FROM {}", columns(id), leading.source()));
        for table in tables {
            query.push(format!(" JOIN {} ON {} = {id}", table.source(), table.id_column()));
        }
        query.push(" WHERE true");
        id
    }

    /// Adds the conditions, each preceded by AND, on the tables of [`push_select`](Self::push_select).
    /// Words are looked up `by_index` where many rows would be read otherwise.
    pub(super) fn push_conditions(&self, query: &mut QueryBuilder<Postgres>, id: &str, by_index: bool) {
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
            query.push(format!(" AND {id} = ANY (")).push_bind(ids).push(")");
        }
        if let Some(tags) = self.tag_limit {
            query.push(" AND site.tags && ").push_bind(tags.to_vec());
        }
        for word in self.query.unwrap_or_default().split_whitespace() {
            if by_index && has_ngrams(word) {
                query.push(" AND picket.ngrams(text.searched) @> picket.word_ngrams(lower(");
                query.push_bind(word.to_owned()).push("))");
            }
            query.push(" AND text.searched LIKE '%' || lower(").push_bind(escape_like(word)).push(") || '%'");
        }
    }

    /// Whether a condition has an index, and may select few sites.
    pub(super) fn has_index(&self) -> bool {
        let has_words = self.query.is_some_and(|query| query.split_whitespace().any(has_ngrams));
        let is_trouble = !self.status.is_empty() && !self.status.contains(&SiteState::Up);
        has_words || is_trouble || self.tag.is_some() || self.tag_limit.is_some()
    }

    /// Adds the statement that finds which sites the filter selects, up to one more than `max_matches`.
    pub(super) fn push_search(&self, query: &mut QueryBuilder<Postgres>, by_index: bool, max_matches: i64) {
        let id = self.push_select(query, None, str::to_owned);
        self.push_conditions(query, id, by_index);
        query.push(" LIMIT ").push_bind(max_matches.saturating_add(1));
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
