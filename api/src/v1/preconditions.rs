//! `ETag`, `If-Match` and `If-None-Match` (RFC 9110, section 13).

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::problem::{Problem, ProblemKind};

/// Writes that lose a race against another change of the object are repeated so many times, if the
/// request has no condition.
pub(super) const WRITE_ATTEMPTS: usize = 3;

/// The header `ETag` of a version.
pub(super) fn build_etag(version: impl std::fmt::Display) -> HeaderValue {
    // A version consists of digits, which every header may have.
    HeaderValue::try_from(format!("\"{version}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

/// Entity tags of a header; `None` without the header.
fn list_tags(headers: &HeaderMap, name: HeaderName) -> Option<Vec<String>> {
    let values: Vec<_> = headers.get_all(name).iter().collect();
    let tags = values.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    (!values.is_empty()).then(|| tags.map(|tag| tag.trim().to_owned()).collect())
}

/// Returns true if the request has a condition, which holds.
///
/// # Errors
/// If `If-Match` names none of the object's present version.
pub(super) fn check_if_match(headers: &HeaderMap, etag: &HeaderValue) -> Result<bool, Problem> {
    let Some(tags) = list_tags(headers, header::IF_MATCH) else { return Ok(false) };
    let etag = etag.to_str().unwrap_or_default();
    match tags.iter().any(|tag| tag == "*" || tag == etag) {
        true => Ok(true),
        false => Err(Problem::new(
            ProblemKind::PreconditionFailed,
            format!("If-Match: {} is not allowed; allowed: {etag}, the present ETag", tags.join(", ")),
        )),
    }
}

/// Returns true if `If-None-Match` names the object's present version.
pub(super) fn is_not_modified(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let etag = etag.to_str().unwrap_or_default();
    let tags = list_tags(headers, header::IF_NONE_MATCH).unwrap_or_default();
    tags.iter().any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::try_from(value).unwrap())])
    }

    #[test]
    fn a_write_needs_a_strong_tag_of_the_present_version_and_a_read_a_weak_one() {
        let etag = build_etag(7);

        for (value, holds) in
            [("\"7\"", true), ("*", true), ("\"6\", \"7\"", true), ("W/\"7\"", false), ("7", false)]
        {
            assert_eq!(check_if_match(&headers(header::IF_MATCH, value), &etag).is_ok(), holds, "{value}");
        }
        assert!(!check_if_match(&HeaderMap::new(), &etag).unwrap());
        for (value, same) in [("W/\"7\"", true), ("\"7\"", true), ("*", true), ("\"6\"", false)] {
            assert_eq!(is_not_modified(&headers(header::IF_NONE_MATCH, value), &etag), same, "{value}");
        }
    }
}
