//! Selection of the values that a path names, by counted steps.

use std::cmp::Ordering;

use super::{
    BudgetExhausted, Comparison, Expression, JsonDocument, JsonNumber, JsonPath, Literal, NodeRef, NodeValue,
    Operand, Query, Segment, Selector, StepBudget, search_text,
};
use crate::Pattern;

impl JsonPath {
    /// Values of `document` that the path selects, in the order of RFC 9535.
    ///
    /// # Errors
    /// If the selection takes more steps than are left.
    pub fn select_nodes<'a>(
        &self,
        document: &'a JsonDocument,
        budget: &mut StepBudget,
    ) -> Result<Vec<NodeRef<'a>>, BudgetExhausted> {
        Selection { root: document.root(), budget }.follow_segments(document.root(), &self.segments)
    }
}

/// Value of an operand, or nothing.
#[derive(Clone, Copy)]
enum OperandValue<'a> {
    Nothing,
    Null,
    Bool(bool),
    Number(JsonNumber),
    Text(&'a str),
    /// An array or object.
    Container(NodeRef<'a>),
}

struct Selection<'a, 'b> {
    root: NodeRef<'a>,
    budget: &'b mut StepBudget,
}

impl<'a> Selection<'a, '_> {
    fn follow_segments(
        &mut self,
        start: NodeRef<'a>,
        segments: &[Segment<Pattern>],
    ) -> Result<Vec<NodeRef<'a>>, BudgetExhausted> {
        let mut nodes = vec![start];
        for segment in segments {
            let mut selected = Vec::new();
            for node in nodes {
                if segment.is_descendant {
                    for descendant in node.descendants() {
                        self.budget.take(1)?;
                        self.apply_selectors(descendant, &segment.selectors, &mut selected)?;
                    }
                } else {
                    self.apply_selectors(node, &segment.selectors, &mut selected)?;
                }
            }
            nodes = selected;
        }
        Ok(nodes)
    }

    fn apply_selectors(
        &mut self,
        node: NodeRef<'a>,
        selectors: &[Selector<Pattern>],
        selected: &mut Vec<NodeRef<'a>>,
    ) -> Result<(), BudgetExhausted> {
        for selector in selectors {
            self.budget.take(1)?;
            match selector {
                Selector::Name(name) => selected.extend(self.find_member(node, name)?),
                Selector::Index(index) => selected.extend(self.find_item(node, *index)?),
                Selector::Wildcard => {
                    for child in node.children() {
                        self.budget.take(1)?;
                        selected.push(child);
                    }
                }
                Selector::Slice { start, end, step } => {
                    if let NodeValue::Array(length) = node.value() {
                        self.apply_slice(node, (*start, *end, *step), length, selected)?;
                    }
                }
                Selector::Filter(expression) => {
                    for child in node.children() {
                        self.budget.take(1)?;
                        if self.is_true(expression, child)? {
                            selected.push(child);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn find_member(&mut self, node: NodeRef<'a>, name: &str) -> Result<Option<NodeRef<'a>>, BudgetExhausted> {
        if !matches!(node.value(), NodeValue::Object(_)) {
            return Ok(None);
        }
        for child in node.children() {
            self.budget.take(1)?;
            if child.name() == name {
                return Ok(Some(child));
            }
        }
        Ok(None)
    }

    fn find_item(&mut self, node: NodeRef<'a>, index: i64) -> Result<Option<NodeRef<'a>>, BudgetExhausted> {
        let NodeValue::Array(length) = node.value() else { return Ok(None) };
        let Some(position) = resolve_index(index, length) else { return Ok(None) };
        self.budget.take(position.into())?;
        Ok(node.children().nth(position as usize))
    }

    /// Selects a slice of an array of `length` items, as RFC 9535 defines in section 2.3.4.2.2.
    fn apply_slice(
        &mut self,
        node: NodeRef<'a>,
        (start, end, step): (Option<i64>, Option<i64>, i64),
        length: u32,
        selected: &mut Vec<NodeRef<'a>>,
    ) -> Result<(), BudgetExhausted> {
        let length = i64::from(length);
        let normalize = |index: i64| if index >= 0 { index } else { length + index };
        let (lower, upper) = match step {
            0 => return Ok(()),
            1.. => (
                normalize(start.unwrap_or(0)).clamp(0, length),
                normalize(end.unwrap_or(length)).clamp(0, length),
            ),
            ..0 => (
                normalize(end.unwrap_or(-length - 1)).clamp(-1, length - 1) + 1,
                normalize(start.unwrap_or(length - 1)).clamp(-1, length - 1) + 1,
            ),
        };
        let first = selected.len();
        for (position, child) in (0_i64..upper).zip(node.children()) {
            self.budget.take(1)?;
            // A negative step counts from the last item of the slice down.
            let distance = if step > 0 { position - lower } else { upper - 1 - position };
            if position >= lower && distance % step == 0 {
                selected.push(child);
            }
        }
        if step < 0 {
            selected[first..].reverse();
        }
        Ok(())
    }

    fn is_true(
        &mut self,
        expression: &Expression<Pattern>,
        current: NodeRef<'a>,
    ) -> Result<bool, BudgetExhausted> {
        self.budget.take(1)?;
        match expression {
            Expression::Or(alternatives) => {
                for alternative in alternatives {
                    if self.is_true(alternative, current)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Expression::And(parts) => {
                for part in parts {
                    if !self.is_true(part, current)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Expression::Not(negated) => Ok(!self.is_true(negated, current)?),
            Expression::Exists(query) if query.is_singular() => {
                Ok(self.find_single(query, current)?.is_some())
            }
            Expression::Exists(query) => Ok(!self.run_query(query, current)?.is_empty()),
            Expression::Comparison(comparison) => {
                let (left, operator, right) = &**comparison;
                let (left, right) = (self.evaluate(left, current)?, self.evaluate(right, current)?);
                self.compare(left, *operator, right)
            }
            Expression::Regex(operand, pattern) => match self.evaluate(operand, current)? {
                OperandValue::Text(text) => search_text(pattern, text, self.budget),
                _ => Ok(false),
            },
        }
    }

    fn run_query(
        &mut self,
        query: &Query<Pattern>,
        current: NodeRef<'a>,
    ) -> Result<Vec<NodeRef<'a>>, BudgetExhausted> {
        let start = if query.is_absolute { self.root } else { current };
        self.follow_segments(start, &query.segments)
    }

    /// Runs a query that selects at most one node, without a list of nodes.
    fn find_single(
        &mut self,
        query: &Query<Pattern>,
        current: NodeRef<'a>,
    ) -> Result<Option<NodeRef<'a>>, BudgetExhausted> {
        let mut node = if query.is_absolute { self.root } else { current };
        for segment in &query.segments {
            let found = match segment.selectors.first() {
                Some(Selector::Name(name)) => self.find_member(node, name)?,
                Some(Selector::Index(index)) => self.find_item(node, *index)?,
                _ => None,
            };
            let Some(found) = found else { return Ok(None) };
            node = found;
        }
        Ok(Some(node))
    }

    fn evaluate<'o>(
        &mut self,
        operand: &'o Operand<Pattern>,
        current: NodeRef<'a>,
    ) -> Result<OperandValue<'o>, BudgetExhausted>
    where
        'a: 'o,
    {
        self.budget.take(1)?;
        Ok(match operand {
            Operand::Literal(Literal::Null) => OperandValue::Null,
            Operand::Literal(Literal::Bool(value)) => OperandValue::Bool(*value),
            Operand::Literal(Literal::Number(number)) => OperandValue::Number(*number),
            Operand::Literal(Literal::Text(text)) => OperandValue::Text(text),
            Operand::Value(query) if query.is_singular() => {
                self.find_single(query, current)?.map_or(OperandValue::Nothing, OperandValue::from_node)
            }
            Operand::Value(query) => match self.run_query(query, current)?.as_slice() {
                [node] => OperandValue::from_node(*node),
                _ => OperandValue::Nothing,
            },
            Operand::Count(query) => to_number(self.run_query(query, current)?.len()),
            Operand::Length(operand) => match self.evaluate(operand, current)? {
                OperandValue::Text(text) => {
                    self.budget.take(text.len() as u64 >> 4)?;
                    to_number(text.chars().count())
                }
                OperandValue::Container(node) => match node.value() {
                    NodeValue::Array(length) | NodeValue::Object(length) => to_number(length as usize),
                    _ => OperandValue::Nothing,
                },
                _ => OperandValue::Nothing,
            },
        })
    }

    fn compare(
        &mut self,
        left: OperandValue<'_>,
        operator: Comparison,
        right: OperandValue<'_>,
    ) -> Result<bool, BudgetExhausted> {
        let order = match (left, right) {
            (OperandValue::Number(left), OperandValue::Number(right)) => left.compare(right),
            (OperandValue::Text(left), OperandValue::Text(right)) => {
                self.budget.take(left.len().min(right.len()) as u64 >> 4)?;
                Some(left.cmp(right))
            }
            _ => None,
        };
        Ok(match operator {
            Comparison::Less => order == Some(Ordering::Less),
            Comparison::Greater => order == Some(Ordering::Greater),
            Comparison::LessOrEqual if order.is_some() => order != Some(Ordering::Greater),
            Comparison::GreaterOrEqual if order.is_some() => order != Some(Ordering::Less),
            Comparison::NotEqual => !self.is_equal(left, right)?,
            // Of other types only equal values are `<=` and `>=`.
            Comparison::Equal | Comparison::LessOrEqual | Comparison::GreaterOrEqual => {
                self.is_equal(left, right)?
            }
        })
    }

    fn is_equal(&mut self, left: OperandValue<'_>, right: OperandValue<'_>) -> Result<bool, BudgetExhausted> {
        use OperandValue::{Bool, Container, Nothing, Null, Number, Text};
        Ok(match (left, right) {
            (Nothing, Nothing) | (Null, Null) => true,
            (Bool(left), Bool(right)) => left == right,
            (Number(left), Number(right)) => left.compare(right) == Some(Ordering::Equal),
            (Text(left), Text(right)) => {
                self.budget.take(left.len().min(right.len()) as u64 >> 4)?;
                left == right
            }
            (Container(left), Container(right)) => left.is_equal(right, self.budget)?,
            _ => false,
        })
    }
}

impl<'a> OperandValue<'a> {
    fn from_node(node: NodeRef<'a>) -> Self {
        match node.value() {
            NodeValue::Null => Self::Null,
            NodeValue::Bool(value) => Self::Bool(value),
            NodeValue::Number(number) => Self::Number(number),
            NodeValue::Text(text) => Self::Text(text),
            NodeValue::Array(_) | NodeValue::Object(_) => Self::Container(node),
        }
    }
}

impl NodeRef<'_> {
    /// Returns true if both values are equal: numbers by value, objects in any order of members.
    ///
    /// # Errors
    /// If the comparison takes more steps than are left.
    pub fn is_equal(self, other: NodeRef<'_>, budget: &mut StepBudget) -> Result<bool, BudgetExhausted> {
        budget.take(1)?;
        match (self.value(), other.value()) {
            (NodeValue::Null, NodeValue::Null) => Ok(true),
            (NodeValue::Bool(left), NodeValue::Bool(right)) => Ok(left == right),
            (NodeValue::Number(left), NodeValue::Number(right)) => {
                Ok(left.compare(right) == Some(Ordering::Equal))
            }
            (NodeValue::Text(left), NodeValue::Text(right)) => {
                budget.take(left.len().min(right.len()) as u64 >> 4)?;
                Ok(left == right)
            }
            (NodeValue::Array(left), NodeValue::Array(right)) if left == right => {
                for (left, right) in self.children().zip(other.children()) {
                    if !left.is_equal(right, budget)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            (NodeValue::Object(left), NodeValue::Object(right)) if left == right => {
                for member in self.children() {
                    let mut found = None;
                    for candidate in other.children() {
                        let shorter = candidate.name().len().min(member.name().len());
                        budget.take(1 + (shorter as u64 >> 4))?;
                        if candidate.name() == member.name() {
                            found = Some(candidate);
                            break;
                        }
                    }
                    let Some(found) = found else { return Ok(false) };
                    if !member.is_equal(found, budget)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

/// Position of an index that may count from the end; `None` outside of the array.
fn resolve_index(index: i64, length: u32) -> Option<u32> {
    let position = if index >= 0 { index } else { i64::from(length) + index };
    u32::try_from(position).ok().filter(|position| *position < length)
}

fn to_number(count: usize) -> OperandValue<'static> {
    OperandValue::Number(JsonNumber::Unsigned(count as u64))
}
