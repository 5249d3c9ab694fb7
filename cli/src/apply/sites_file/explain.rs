//! Errors of the sites file for people: the line, the field, and what is allowed.

use std::fmt;

use picket_proto::{
    nested_object::HIDDEN_VALUE, suggestion::describe_known_names, validation::sanitize_text,
};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, MapAccess, SeqAccess, Visitor},
};
use serde_path_to_error::Track;
use serde_saphyr::{Error, Spanned};

/// Describes the parser's error in a single line: the line of the file, the field, and the text of
/// that line. Neither the text nor a value is repeated where it may be a secret.
pub(super) fn describe_yaml_error<T: DeserializeOwned>(name: &str, text: &str, why: &Error) -> String {
    let line = why.location().map(|location| location.line());
    let place = line.map_or_else(String::new, |line| format!(", line {line}"));
    let path = find_error_path::<T>(text);
    let field = path.split_once("].value.").map_or("", |(_, field)| field);
    let is_within = |object: &str, path: &str| {
        path.strip_prefix(object).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    let may_be_secret =
        is_within("channels", &path) || ["options", "headers"].iter().any(|object| is_within(object, field));
    // The text of the line names a field of the site.
    let is_named = may_be_secret || field.contains(['.', '[']);
    let words = describe_problem(why.without_snippet(), may_be_secret);
    let field = match is_named {
        true => format!("{}: ", sanitize_text(field, 200)),
        false => String::new(),
    };
    let excerpt = line
        .filter(|_| !may_be_secret)
        .and_then(|line| text.lines().nth(usize::try_from(line).ok()?.checked_sub(1)?))
        .map(|excerpt| format!(": {}", sanitize_text(excerpt.trim(), 100)));
    format!("{name}{place}: {field}{words}{}", excerpt.unwrap_or_default())
}

/// Path of the field at which parsing ends, such as `sites[0].value.options.auth`.
fn find_error_path<T: DeserializeOwned>(text: &str) -> String {
    // Parsed again, because tracking the path slows down the usual, valid file.
    let mut track = Track::new();
    let _ = serde_saphyr::with_deserializer_from_str(text, |deserializer| {
        T::deserialize(serde_path_to_error::Deserializer::new(deserializer, &mut track))
    });
    track.path().to_string()
}

fn describe_problem(why: &Error, may_be_secret: bool) -> String {
    match why {
        Error::SerdeUnknownField { field, expected, .. } => {
            let known = describe_known_names(field, expected);
            format!("unknown field '{}': {known}", sanitize_text(field, 64))
        }
        Error::SerdeUnknownVariant { expected, .. } if may_be_secret => {
            format!("'{HIDDEN_VALUE}' is not allowed; allowed: {}", expected.join(", "))
        }
        Error::SerdeInvalidType { expected, .. } | Error::SerdeInvalidValue { expected, .. }
            if may_be_secret =>
        {
            format!("'{HIDDEN_VALUE}' is not allowed; allowed: {expected}")
        }
        Error::Unexpected { expected, .. } => {
            let wanted = match *expected {
                "mapping start" => "an object of fields",
                "sequence start" => "a list",
                "scalar" | "string scalar" => "a text",
                other => other,
            };
            format!("{wanted} is needed here")
        }
        Error::SerdeMissingField { field, .. } => format!("the field '{field}' is missing"),
        _ if may_be_secret => "a value of another form is needed".to_owned(),
        why => {
            let words = why.to_string();
            let words = words.lines().next().unwrap_or_default();
            let words = words.split(" at line ").next().unwrap_or(words);
            words
                .replace("invalid i64", "a whole number is needed here")
                .replace("invalid u64", "a whole number of at least 0 is needed here")
                .replace("invalid floating point", "a number is needed here")
                .replace("invalid boolean", "true or false is needed here")
        }
    }
}

/// Lines of all fields.
pub(in crate::apply) struct FieldLines(Option<Node>);

impl FieldLines {
    /// Lines in `text`, which has been parsed before; none if it cannot be parsed.
    pub(in crate::apply) fn parse(text: &str) -> Self {
        Self(serde_saphyr::from_str(text).ok())
    }

    /// Line of the field `path`, such as `assertions.json[0].path`, of the entry of the list or map
    /// `list`. The line of the deepest known part if the path does not exist in the file.
    pub(in crate::apply) fn find_line(&self, list: &str, entry: &str, path: &str) -> Option<u64> {
        let mut node = find_child(find_child(self.0.as_ref()?, list)?, entry)?;
        let mut line = None;
        for part in path.split(['.', '[', ']']).filter(|part| !part.is_empty()) {
            let Some(next) = find_child(node, part) else {
                // The settings of a channel may stand beside its other fields.
                if part == "settings" {
                    continue;
                }
                break;
            };
            node = next;
            line = Some(next.0.referenced.line());
        }
        line
    }
}

fn find_child<'a>(node: &'a Node, part: &str) -> Option<&'a Node> {
    match &node.0.value {
        Content::Map(fields) => fields.iter().find(|(name, _)| name == part).map(|(_, node)| node),
        Content::List(items) => part.parse::<usize>().ok().and_then(|index| items.get(index)),
        Content::Scalar => None,
    }
}

/// A value of the file with its place.
#[derive(Deserialize)]
struct Node(Spanned<Content>);

enum Content {
    Map(Vec<(String, Node)>),
    List(Vec<Node>),
    Scalar,
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ContentVisitor;

        /// Accepts a scalar of this type and keeps nothing of it.
        macro_rules! ignore_scalar {
            ($($visit:ident: $type:ty),*) => {
                $(fn $visit<E>(self, _: $type) -> Result<Content, E> {
                    Ok(Content::Scalar)
                })*
            };
        }

        impl<'de> Visitor<'de> for ContentVisitor {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            ignore_scalar! {
                visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_i128: i128, visit_u128: u128, visit_f64: f64,
                visit_str: &str
            }

            fn visit_unit<E>(self) -> Result<Content, E> {
                Ok(Content::Scalar)
            }

            fn visit_none<E>(self) -> Result<Content, E> {
                Ok(Content::Scalar)
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
                Content::deserialize(deserializer)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Content, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    items.push(item);
                }
                Ok(Content::List(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Content, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Content::Map(fields))
            }
        }

        deserializer.deserialize_any(ContentVisitor)
    }
}
