//! Pages of lists. A page continues behind the key of its last item, so that items added meanwhile move no item.

use std::{fmt::Display, str::FromStr};

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, Uri, header};
use picket_proto::Timestamp;
use serde::Serialize;
use url::form_urlencoded;
use utoipa::ToSchema;

use crate::{extract::PageLimit, problem::Problem};

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Page<T> {
    /// Items in the order of the list.
    pub(super) items: Vec<T>,
    /// Value of `cursor` for the next page, also in the header `Link`; null on the last page.
    #[schema(example = "1795176000000000.42")]
    pub(super) next_cursor: Option<String>,
}

/// Position in a list that is ordered by a time and an id.
pub(super) type ListKey<Id> = (Timestamp, Id);

/// The requested page.
pub(super) struct PageRequest<Id> {
    limit: usize,
    /// The last item of the page before.
    pub(super) after: Option<ListKey<Id>>,
}

impl<Id: Display + FromStr> PageRequest<Id> {
    /// # Errors
    /// If the cursor is not one of this API.
    pub(super) fn new(limit: PageLimit, cursor: Option<&str>) -> Result<Self, Problem> {
        let after = cursor.map(parse_cursor).transpose()?;
        Ok(Self { limit: limit.0.into(), after })
    }

    /// Number of rows to read: one more than the page has, which tells whether another page follows.
    pub(super) fn row_limit(&self) -> i64 {
        i64::try_from(self.limit).unwrap_or(i64::MAX - 1) + 1
    }

    /// Builds the page from rows in order, of which `key` returns the position.
    pub(super) fn build_page<R, T>(
        &self,
        mut rows: Vec<R>,
        key: impl Fn(&R) -> ListKey<Id>,
        convert: impl Fn(R) -> T,
    ) -> Page<T> {
        let has_more = rows.len() > self.limit;
        rows.truncate(self.limit);
        let last = rows.last().filter(|_| has_more);
        let next_cursor = last.map(|row| {
            let (at, id) = key(row);
            format!("{}.{id}", at.as_micros())
        });
        Page { items: rows.into_iter().map(convert).collect(), next_cursor }
    }
}

/// The problem of an error of the store, whose fields are parameters of the query.
pub(super) fn refuse_query(error: picket_store::Error) -> Problem {
    match error {
        picket_store::Error::Invalid(error) => Problem::invalid_field(format!("?{}", error.field), &error),
        error => error.into(),
    }
}

fn parse_cursor<Id: FromStr>(text: &str) -> Result<ListKey<Id>, Problem> {
    let parse = || {
        let (at, id) = text.split_once('.')?;
        Some((Timestamp::from_micros(at.parse().ok()?), id.parse().ok()?))
    };
    parse().ok_or_else(|| Problem::invalid_parameter("cursor", text, "the next_cursor of an earlier page"))
}

impl<T: Serialize> Page<T> {
    /// The response to the request of `uri`, with a link to the next page.
    pub(super) fn into_response(self, uri: &Uri) -> Response {
        let link = self.next_cursor.as_deref().and_then(|cursor| build_link(uri, cursor));
        let mut response = Json(self).into_response();
        if let Some(link) = link {
            response.headers_mut().insert(header::LINK, link);
        }
        response
    }
}

/// The header `Link` with the address of `uri` at another cursor.
fn build_link(uri: &Uri, cursor: &str) -> Option<HeaderValue> {
    let query = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let mut next = form_urlencoded::Serializer::new(String::new());
    next.extend_pairs(query.filter(|(name, _)| name != "cursor"));
    next.append_pair("cursor", cursor);
    HeaderValue::try_from(format!("<{}?{}>; rel=\"next\"", uri.path(), next.finish())).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_next_page_keeps_the_filters_and_replaces_the_cursor() {
        let uri = "/api/v1/incidents?site=7&cursor=1.1&tag=a%20b".parse().unwrap();

        let link = build_link(&uri, "5.6").unwrap();

        assert_eq!(link, "</api/v1/incidents?site=7&tag=a+b&cursor=5.6>; rel=\"next\"");
    }

    #[test]
    fn a_cursor_of_no_page_is_refused() {
        for bad in ["", "5", "a.b", "5.", "5.6.7"] {
            let refusal = PageRequest::<i64>::new(PageLimit(1), Some(bad)).map(drop).unwrap_err();
            assert!(refusal.detail().contains("next_cursor"), "{}", refusal.detail());
        }
    }

    proptest! {
        #[test]
        fn pages_that_follow_each_other_have_every_row_once_though_rows_are_added(
            keys in proptest::collection::btree_set((0_i64..50, 0_i64..50), 0..60),
            // Each row is added once: two rows never have the same id.
            added in proptest::collection::btree_set((0_i64..50, 50_i64..99), 0..20)
                .prop_map(Vec::from_iter).prop_shuffle(),
            limit in 1_u16..9,
        ) {
            let mut rows: Vec<(i64, i64)> = keys.iter().rev().copied().collect();
            let (mut seen, mut cursor, mut added) = (Vec::new(), None::<String>, added.into_iter());
            loop {
                let request = PageRequest::new(PageLimit(limit), cursor.as_deref()).unwrap();
                let after = request.after.map(|(at, id)| (at.as_micros(), id));
                let found: Vec<(i64, i64)> = rows.iter().copied().filter(|row| after.is_none_or(|after| *row < after))
                    .take(usize::try_from(request.row_limit()).unwrap()).collect();
                let page = request.build_page(found, |(at, id)| (Timestamp::from_micros(*at), *id), |row| row);
                seen.extend(page.items);
                rows.extend(added.next());
                rows.sort_by(|one, other| other.cmp(one));
                cursor = page.next_cursor;
                if cursor.is_none() { break }
            }
            let first: Vec<_> = seen.iter().copied().filter(|row| keys.contains(row)).collect();
            prop_assert_eq!(first, keys.iter().rev().copied().collect::<Vec<_>>());
            let distinct: std::collections::BTreeSet<_> = seen.iter().collect();
            prop_assert_eq!(distinct.len(), seen.len());
        }
    }
}
