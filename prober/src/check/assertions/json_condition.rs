//! Evaluation of an assertion about JSON.

use std::cmp::Ordering;

use picket_proto::{
    http_assertions::{CompiledJson, JsonCondition},
    json_path::{BudgetExhausted, JsonDocument, JsonNumber, NodeRef, NodeValue, StepBudget, search_text},
};

use super::shape;

/// Returns true if `document` meets the assertion, and a description of the selected values.
///
/// Every selected value must meet the condition, and there must be one; only `absent` is met where
/// there is none.
///
/// # Errors
/// If the evaluation takes more steps than are left.
pub(super) fn evaluate_condition(
    json: &CompiledJson,
    document: &JsonDocument,
    budget: &mut StepBudget,
) -> Result<(bool, String), BudgetExhausted> {
    let nodes = json.path.select_nodes(document, budget)?;
    let describe = |index: usize| {
        let node = nodes[index];
        let name =
            if node.name().is_empty() { json.path.last_name().unwrap_or_default() } else { node.name() };
        let found = shape::describe_node(node, name);
        match nodes.len() {
            1 => found,
            count => format!("{found} as value {} of {count}", index + 1),
        }
    };
    let Some(last) = nodes.len().checked_sub(1) else {
        return Ok((matches!(json.condition, JsonCondition::Absent), "no such value".to_owned()));
    };
    match &json.condition {
        JsonCondition::Absent => return Ok((false, describe(0))),
        JsonCondition::Exists => return Ok((true, describe(0))),
        _ => {}
    }
    for (index, node) in nodes.iter().enumerate() {
        if !is_met(&json.condition, *node, budget)? {
            return Ok((false, describe(index)));
        }
    }
    Ok((true, describe(last)))
}

fn is_met(
    condition: &JsonCondition,
    node: NodeRef<'_>,
    budget: &mut StepBudget,
) -> Result<bool, BudgetExhausted> {
    Ok(match condition {
        JsonCondition::Equals(expected) => node.is_equal(expected.document.root(), budget)?,
        JsonCondition::NotEquals(expected) => !node.is_equal(expected.document.root(), budget)?,
        JsonCondition::LessThan(limit) => compare_number(node, *limit) == Some(Ordering::Less),
        JsonCondition::GreaterThan(limit) => compare_number(node, *limit) == Some(Ordering::Greater),
        JsonCondition::Matches(pattern) => match node.value() {
            NodeValue::Text(text) => search_text(pattern, text, budget)?,
            _ => false,
        },
        JsonCondition::MinLength(least) => {
            measure_length(node, budget)?.is_some_and(|length| length >= *least)
        }
        JsonCondition::MaxLength(most) => measure_length(node, budget)?.is_some_and(|length| length <= *most),
        JsonCondition::Exists | JsonCondition::Absent => true,
    })
}

fn compare_number(node: NodeRef<'_>, limit: f64) -> Option<Ordering> {
    match node.value() {
        NodeValue::Number(number) => number.compare(JsonNumber::from(limit)),
        _ => None,
    }
}

/// Characters, items or members; `None` for any other value.
fn measure_length(node: NodeRef<'_>, budget: &mut StepBudget) -> Result<Option<u64>, BudgetExhausted> {
    Ok(match node.value() {
        NodeValue::Text(text) => {
            budget.take(text.len() as u64 >> 4)?;
            Some(text.chars().count() as u64)
        }
        NodeValue::Array(length) | NodeValue::Object(length) => Some(length.into()),
        _ => None,
    })
}
