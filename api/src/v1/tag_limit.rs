//! Tags of a site that a sender writes who is limited to tags.

use std::collections::BTreeSet;

use picket_proto::{SiteId, ValidationError, site::SiteSpec, validation::sanitize_text};

use crate::{
    access::Access,
    problem::{Problem, ProblemKind},
};

/// Checks the tags of a site that had those in `stored`. It must have a tag of the sender's limit, or it would leave
/// the limit. Its other tags must stay as they are: another sender, and the reports about another tag, would gain or
/// lose the site.
///
/// # Errors
/// If the tags are not allowed; `pointer` leads to the site in the body.
pub(crate) fn check_tags(
    access: &Access,
    tags: &[String],
    stored: &[String],
    pointer: &str,
) -> Result<(), Problem> {
    let Some(limit) = access.tag_limit() else { return Ok(()) };
    require_own_tag(access, tags, pointer)?;
    let select_foreign =
        |tags: &'_ [String]| tags.iter().filter(|tag| !limit.contains(tag)).cloned().collect();
    let (wanted, present): (BTreeSet<String>, BTreeSet<String>) =
        (select_foreign(tags), select_foreign(stored));
    let own = limit.join(", ");
    if let Some(added) = wanted.difference(&present).next() {
        return Err(refuse_tags(added, &format!("{own}, to which the token is limited"), pointer));
    }
    match present.difference(&wanted).next() {
        Some(removed) => {
            let allowed = format!("{removed} as well, which the token, limited to {own}, may not remove");
            Err(refuse_tags(&tags.join(","), &allowed, pointer))
        }
        None => Ok(()),
    }
}

/// The tags of a stored site, by which the rights of a limited sender are judged.
///
/// # Errors
/// If the site cannot be read, and the sender is limited: tags of others would be lost unseen.
pub(super) fn read_stored_tags<'a>(
    access: &Access,
    id: SiteId,
    stored: Result<&'a SiteSpec, &ValidationError>,
) -> Result<&'a [String], Problem> {
    match stored {
        Ok(spec) => Ok(&spec.tags),
        Err(_) if access.tag_limit().is_none() => Ok(&[]),
        Err(why) => {
            let detail = format!(
                "site {id} cannot be read, nor its tags, so only a token without a limit to tags may replace or remove \
                 it: {why}"
            );
            Err(Problem::new(ProblemKind::Conflict, detail))
        }
    }
}

/// Requires that a sender who is limited to tags has the whole site: those who watch it under another tag would lose it.
///
/// # Errors
/// If the site has a tag outside of the limit, which is named, or cannot be read.
pub(crate) fn check_removal(
    access: &Access,
    id: SiteId,
    stored: Result<&SiteSpec, &ValidationError>,
) -> Result<(), Problem> {
    let Some(limit) = access.tag_limit() else { return Ok(()) };
    let tags = read_stored_tags(access, id, stored)?;
    let Some(foreign) = tags.iter().find(|tag| !limit.contains(tag)) else { return Ok(()) };
    let (foreign, own) = (sanitize_text(foreign, 200), limit.join(", "));
    let detail = format!(
        "site {id} has the tag '{foreign}' as well, so a token that is limited to {own} may not remove it; nothing was \
         removed"
    );
    Err(Problem::new(ProblemKind::Forbidden, detail))
}

/// Requires one of the tags to which the sender is limited.
///
/// # Errors
/// If `tags` have none of them; `pointer` leads to the site in the body.
pub(super) fn require_own_tag(access: &Access, tags: &[String], pointer: &str) -> Result<(), Problem> {
    if access.covers_tags(tags) {
        return Ok(());
    }
    let limit = access.tag_limit().unwrap_or_default().join(", ");
    let allowed = format!("at least one of {limit}, to which the token is limited");
    Err(refuse_tags(&tags.join(","), &allowed, pointer))
}

/// A tag whose sites the sender may see all of.
///
/// # Errors
/// If the sender is limited to other tags; `pointer` leads to the field.
pub(crate) fn require_tag(access: &Access, pointer: &str, tag: String) -> Result<String, Problem> {
    match access.tag_limit() {
        Some(limit) if !limit.contains(&tag) => {
            let allowed = format!("{}, to which the token is limited", limit.join(", "));
            let error = ValidationError::new("tag", tag, allowed);
            Err(Problem::new(ProblemKind::Forbidden, error.to_string())
                .with_field_error(pointer.to_owned(), error.to_string()))
        }
        _ => Ok(tag),
    }
}

fn refuse_tags(value: &str, allowed: &str, pointer: &str) -> Problem {
    let error = ValidationError::new("tags", value, allowed);
    Problem::new(ProblemKind::Forbidden, error.to_string())
        .with_field_error(format!("{pointer}/tags"), error.to_string())
}

#[cfg(test)]
mod tests {
    use picket_store::{api_tokens::Scope, sessions::SessionIdentity};

    use super::*;

    fn limited(tags: Option<&[&str]>) -> Access {
        Access::of_session(SessionIdentity {
            name: "test".to_owned(),
            scopes: vec![Scope::Write],
            tags: tags.map(list),
            token_id: None,
        })
    }

    fn list(tags: &[&str]) -> Vec<String> {
        tags.iter().map(|tag| (*tag).to_owned()).collect()
    }

    #[test]
    fn a_limited_sender_changes_only_its_own_tags() {
        let access = limited(Some(&["shop", "blog"]));
        for (tags, stored, refusal) in [
            (&["shop"][..], &[][..], None),
            (&["blog"], &["shop"], None),
            (&["shop", "premium"], &["shop", "premium"], None),
            (&["premium", "blog"], &["shop", "premium"], None),
            (&[], &["shop"], Some("at least one of shop, blog")),
            (&["premium"], &["shop", "premium"], Some("at least one of shop, blog")),
            (&["shop", "other"], &[], Some("'other' is not allowed; allowed: shop, blog")),
            (&["shop", "other"], &["shop", "premium"], Some("'other' is not allowed")),
            (&["shop"], &["shop", "premium"], Some("premium as well")),
        ] {
            let checked = check_tags(&access, &list(tags), &list(stored), "/sites/3");
            match refusal {
                None => checked.unwrap(),
                Some(text) => {
                    let problem = checked.unwrap_err();
                    assert!(problem.detail().contains(text), "{tags:?} {stored:?}: {}", problem.detail());
                    let problem = serde_json::to_value(problem).unwrap();
                    assert_eq!(problem["errors"][0]["pointer"], "/sites/3/tags");
                }
            }
        }
    }

    #[test]
    fn a_limited_sender_removes_only_sites_without_tags_of_others() {
        let access = limited(Some(&["shop", "blog"]));
        for (tags, refusal) in [
            (&["shop"][..], None),
            (&["blog", "shop"], None),
            (&["shop", "premium"], Some("site 7 has the tag 'premium' as well")),
            (&["premium", "blog"], Some("limited to shop, blog")),
        ] {
            let site = SiteSpec { tags: list(tags), ..SiteSpec::new("https://a.example/") };
            check_removal(&limited(None), SiteId(7), Ok(&site)).unwrap();
            let checked = check_removal(&access, SiteId(7), Ok(&site));
            match refusal {
                None => checked.unwrap(),
                Some(text) => {
                    let problem = checked.unwrap_err();
                    assert_eq!(problem.status(), http::StatusCode::FORBIDDEN);
                    assert!(problem.detail().contains(text), "{tags:?}: {}", problem.detail());
                }
            }
        }
    }

    #[test]
    fn a_limited_sender_neither_replaces_nor_removes_a_site_that_cannot_be_read() {
        let (access, why) = (limited(Some(&["shop"])), ValidationError::new("options", "x", "an object"));

        let refusals = [
            read_stored_tags(&access, SiteId(7), Err(&why)).unwrap_err(),
            check_removal(&access, SiteId(7), Err(&why)).unwrap_err(),
        ];

        for problem in refusals {
            assert_eq!(problem.status(), http::StatusCode::CONFLICT);
            assert!(problem.detail().contains("site 7 cannot be read"), "{}", problem.detail());
        }
        assert!(read_stored_tags(&limited(None), SiteId(7), Err(&why)).unwrap().is_empty());
        check_removal(&limited(None), SiteId(7), Err(&why)).unwrap();
    }

    #[test]
    fn a_sender_without_a_limit_changes_all_tags() {
        check_tags(&limited(None), &list(&["a"]), &list(&["b"]), "").unwrap();
    }
}
