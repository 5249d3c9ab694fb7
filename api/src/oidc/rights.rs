//! Rights of a person by the groups that the provider reports.

use std::str::FromStr;

use picket_proto::site::SiteSpec;
use picket_store::api_tokens::Scope;
use serde_json::Value;

/// Rights of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRights {
    /// Name of the group, or `*` for everybody.
    group: String,
    scopes: Vec<Scope>,
    /// Only sites with at least one of these tags, if given.
    tags: Option<Vec<String>>,
}

impl FromStr for GroupRights {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const ALLOWED: &str = "a group, its scopes (read, write, check, admin) and the tags that limit it, such as 'acme=read,check:acme'";
        let refuse = |why: &str| format!("'{text}' {why}; allowed: {ALLOWED}");
        // A group's name may contain equals signs, as LDAP names do; scopes and tags do not.
        let (group, rights) = text.trim().rsplit_once('=').ok_or_else(|| refuse("has no '='"))?;
        let (scopes, tags) = match rights.split_once(':') {
            Some((scopes, tags)) => (scopes, Some(split_list(tags))),
            None => (rights, None),
        };
        let scopes: Vec<Scope> = split_list(scopes)
            .iter()
            .map(|name| name.parse().map_err(|_| refuse(&format!("has the unknown scope '{name}'"))))
            .collect::<Result<_, _>>()?;
        for tag in tags.iter().flatten() {
            SiteSpec::check_tag("tags", tag).map_err(|error| refuse(&format!("has a wrong tag: {error}")))?;
        }
        if group.trim().is_empty() || scopes.is_empty() || tags.as_ref().is_some_and(Vec::is_empty) {
            return Err(refuse("is incomplete"));
        }
        if tags.is_some() && scopes.contains(&Scope::Admin) {
            return Err(refuse("limits the scope admin, which can lift the limit"));
        }
        Ok(Self { group: group.trim().to_owned(), scopes, tags })
    }
}

fn split_list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

impl GroupRights {
    /// Scopes of the group.
    pub(super) fn scopes(&self) -> &[Scope] {
        &self.scopes
    }

    /// Tags that limit the group.
    pub(super) fn tags(&self) -> Option<&[String]> {
        self.tags.as_deref()
    }
}

/// Rights of a person with this claim of groups: those of the first entry that names one of them. Rights of
/// several groups are not added up, since the tags of one would then extend the scopes of another.
pub(super) fn find_rights<'a>(rules: &'a [GroupRights], claim: Option<&Value>) -> Option<&'a GroupRights> {
    let groups: Vec<&str> = match claim {
        Some(Value::String(group)) => vec![group],
        Some(Value::Array(groups)) => groups.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    rules.iter().find(|rule| rule.group == "*" || groups.contains(&rule.group.as_str()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rules(texts: &[&str]) -> Vec<GroupRights> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_first_group_that_a_person_is_in_counts() {
        let rules = rules(&["admins=admin", "acme=read,check:acme,acme-dev", "cn=ops,dc=example=read,write"]);
        let find = |claim| find_rights(&rules, Some(&claim)).map(|rule| rule.group.as_str());

        assert_eq!(find(json!(["acme", "admins"])), Some("admins"));
        assert_eq!(find(json!("acme")), Some("acme"));
        assert_eq!(find(json!(["cn=ops,dc=example"])), Some("cn=ops,dc=example"));
        assert_eq!(find(json!(["others", 7, null])), None);
        assert_eq!(find_rights(&rules, None), None);
        assert_eq!(rules[1].tags(), Some(&["acme".to_owned(), "acme-dev".to_owned()][..]));
    }

    #[test]
    fn the_asterisk_includes_a_person_without_groups() {
        let rules = rules(&["ops=write", " * = read "]);

        assert_eq!(find_rights(&rules, None).unwrap().scopes(), [Scope::Read]);
    }

    #[test]
    fn rights_that_cannot_be_meant_are_refused_with_an_example() {
        for bad in ["ops", "=read", "ops=", "ops=root", "ops=read:", "ops=admin:acme", ""] {
            let refusal = bad.parse::<GroupRights>().unwrap_err();
            assert!(refusal.contains("'acme=read,check:acme'"), "{refusal}");
        }
        let long = format!("ops=read:{}", "x".repeat(65));
        assert!(long.parse::<GroupRights>().unwrap_err().contains("1 to 64 bytes"));
    }
}
