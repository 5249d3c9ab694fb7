//! The reference of the API for people, at `/api`: rendered once from the OpenAPI document, without JavaScript.

use askama::Template;
use serde_json::{Map, Value};

use crate::problem::ProblemKind;

#[derive(Template)]
#[template(path = "reference.html")]
struct ReferencePage {
    groups: Vec<Group>,
    schemas: Vec<Schema>,
    problems: Vec<ProblemRow>,
}

/// Operations of one resource.
struct Group {
    name: String,
    operations: Vec<Operation>,
}

struct Operation {
    id: String,
    method: String,
    path: String,
    summary: String,
    /// The scopes that the sender needs; empty for any token.
    scopes: String,
    parameters: Vec<Field>,
    /// Name of the schema of the body.
    body: Option<TypeName>,
    responses: Vec<ResponseRow>,
}

/// A parameter or a field.
struct Field {
    name: String,
    place: String,
    kind: TypeName,
    is_required: bool,
    description: String,
}

struct ResponseRow {
    status: String,
    description: String,
    body: Option<TypeName>,
}

struct Schema {
    name: String,
    description: String,
    fields: Vec<Field>,
}

struct ProblemRow {
    anchor: &'static str,
    status: u16,
    title: &'static str,
}

/// A type, with a link if it is a schema of its own.
struct TypeName {
    text: String,
    schema: Option<String>,
}

/// Renders the page.
///
/// # Errors
/// If the template fails, which it does for no document.
pub(crate) fn render_reference(document: &Value) -> Result<String, askama::Error> {
    let mut groups: Vec<Group> = Vec::new();
    for (path, item) in entries(&document["paths"]) {
        for (method, operation) in entries(item) {
            let tag = text(&operation["tags"][0]);
            let operation = describe_operation(path, method, operation);
            match groups.iter_mut().find(|group| group.name == tag) {
                Some(group) => group.operations.push(operation),
                None => groups.push(Group { name: tag, operations: vec![operation] }),
            }
        }
    }
    groups.sort_by(|a, b| a.name.cmp(&b.name));
    let schemas = entries(&document["components"]["schemas"])
        .map(|(name, schema)| Schema {
            name: name.clone(),
            description: text(&schema["description"]),
            fields: describe_fields(schema),
        })
        .collect();
    let problems = ProblemKind::ALL_KINDS.map(|kind| ProblemRow {
        anchor: kind.anchor(),
        status: kind.status().as_u16(),
        title: kind.title(),
    });
    ReferencePage { groups, schemas, problems: problems.into() }.render()
}

fn entries(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object.as_object().into_iter().flat_map(Map::iter)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn describe_operation(path: &str, method: &str, operation: &Value) -> Operation {
    let scopes = operation["security"][0]["token"].as_array().into_iter().flatten().map(text);
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    let summary = [text(&operation["summary"]), text(&operation["description"])];
    Operation {
        id: text(&operation["operationId"]),
        method: method.to_uppercase(),
        path: format!("/api/v1{path}"),
        summary: summary.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" "),
        scopes: scopes.collect::<Vec<_>>().join(", "),
        parameters: parameters
            .map(|parameter| Field {
                name: text(&parameter["name"]),
                place: text(&parameter["in"]),
                kind: describe_type(&parameter["schema"]),
                is_required: parameter["required"] == true,
                description: text(&parameter["description"]),
            })
            .collect(),
        body: describe_content(&operation["requestBody"]),
        responses: entries(&operation["responses"])
            .map(|(status, response)| ResponseRow {
                status: status.clone(),
                description: text(&response["description"]),
                body: describe_content(response),
            })
            .collect(),
    }
}

/// The type of the first media type of a body.
fn describe_content(body: &Value) -> Option<TypeName> {
    let (media_type, content) = entries(&body["content"]).next()?;
    match content["schema"].is_null() {
        true => Some(TypeName { text: media_type.clone(), schema: None }),
        false => Some(describe_type(&content["schema"])),
    }
}

/// The fields of an object, including those of the schemas that it consists of.
fn describe_fields(schema: &Value) -> Vec<Field> {
    let own = entries(&schema["properties"]).map(|(name, property)| Field {
        name: name.clone(),
        place: String::new(),
        kind: describe_type(property),
        is_required: schema["required"].as_array().is_some_and(|all| all.iter().any(|one| one == name)),
        description: text(&property["description"]),
    });
    let parts = ["allOf", "oneOf", "anyOf"].iter().flat_map(|key| schema[*key].as_array().into_iter().flatten());
    own.chain(parts.flat_map(describe_fields)).collect()
}

fn describe_type(schema: &Value) -> TypeName {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        return TypeName { text: name.to_owned(), schema: Some(name.to_owned()) };
    }
    if schema["type"] == "array" {
        let items = describe_type(&schema["items"]);
        return TypeName { text: format!("list of {}", items.text), schema: items.schema };
    }
    let choices = ["oneOf", "anyOf", "allOf"].iter().find_map(|key| schema[*key].as_array());
    if let Some(choices) = choices {
        let types: Vec<TypeName> = choices.iter().map(describe_type).collect();
        let schema = types.iter().find_map(|kind| kind.schema.clone());
        let texts: Vec<String> = types.into_iter().map(|kind| kind.text).collect();
        return TypeName { text: texts.join(" or "), schema };
    }
    let values = schema["enum"].as_array().into_iter().flatten().map(|value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    });
    let values: Vec<String> = values.collect();
    let mut name = match &schema["type"] {
        Value::String(name) => name.clone(),
        Value::Array(names) => names.iter().map(text).collect::<Vec<_>>().join(" or "),
        _ => "any value".to_owned(),
    };
    if !values.is_empty() {
        name = values.join(", ");
    }
    if let Some(format) = schema["format"].as_str() {
        name = format!("{name} ({format})");
    }
    if let (Some(least), Some(most)) = (schema["minimum"].as_i64(), schema["maximum"].as_i64()) {
        name = format!("{name}, {least} to {most}");
    }
    TypeName { text: name, schema: None }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_operation_schema_and_kind_of_problem_has_an_anchor() {
        let document: Value = serde_json::from_str(&crate::describe_api()).unwrap();

        let page = render_reference(&document).unwrap();

        for (_, item) in entries(&document["paths"]) {
            for (_, operation) in entries(item) {
                assert!(page.contains(&format!("id=\"{}\"", text(&operation["operationId"]))), "{operation}");
            }
        }
        for (name, _) in entries(&document["components"]["schemas"]) {
            assert!(page.contains(&format!("id=\"schema-{name}\"")), "{name}");
        }
        for kind in ProblemKind::ALL_KINDS {
            assert!(page.contains(&format!("id=\"{}\"", kind.anchor())), "{}", kind.anchor());
        }
        assert!(!page.contains("<script") && !page.contains("style="));
    }

    #[test]
    fn types_are_described_in_words_with_a_link_to_a_schema() {
        for (schema, words, link) in [
            (json!({"type": "array", "items": {"$ref": "#/components/schemas/Token"}}), "list of Token", Some("Token")),
            (json!({"type": ["string", "null"], "format": "date-time"}), "string or null (date-time)", None),
            (json!({"oneOf": [{"type": "null"}, {"$ref": "#/components/schemas/A"}]}), "null or A", Some("A")),
            (json!({"type": "integer", "minimum": 1, "maximum": 1000}), "integer, 1 to 1000", None),
            (json!({"type": "string", "enum": ["up", "down"]}), "up, down", None),
        ] {
            let kind = describe_type(&schema);
            assert_eq!((kind.text.as_str(), kind.schema.as_deref()), (words, link));
        }
    }
}
