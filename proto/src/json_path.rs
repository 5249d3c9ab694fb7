//! JSONPath as in RFC 9535, with bounded work.
//!
//! A path is parsed and limited when a site is saved. A selection counts its steps and gives up
//! when they exceed a [`StepBudget`], so that neither a path nor a body can take long.

mod document;
mod i_regexp;
mod number;
mod parser;
mod scanner;
mod selection;
mod step_budget;

use std::fmt;

pub use self::{
    document::{DocumentError, JsonDocument, NodeRef, NodeValue},
    number::JsonNumber,
    step_budget::{BudgetExhausted, StepBudget, search_text},
};
use crate::{Pattern, ValidationError};

/// Maximum length of a path, in bytes.
pub const MAX_PATH_BYTES: usize = 512;
/// Maximum number of descendant segments (`..`) of a path, filters included.
pub const MAX_DESCENDANT_SEGMENTS: usize = 2;
/// Maximum depth of parentheses and functions in a filter.
pub const MAX_EXPRESSION_DEPTH: usize = 32;

/// A parsed path. `P` is the type of compiled regexes, or `()` where regexes are only validated.
#[derive(Clone, Debug)]
pub struct JsonPath<P = Pattern> {
    text: Box<str>,
    segments: Vec<Segment<P>>,
}

/// A step of a path: from nodes to some of their children or descendants.
#[derive(Clone, Debug)]
struct Segment<P> {
    is_descendant: bool,
    selectors: Vec<Selector<P>>,
}

#[derive(Clone, Debug)]
enum Selector<P> {
    Name(Box<str>),
    Wildcard,
    Index(i64),
    Slice { start: Option<i64>, end: Option<i64>, step: i64 },
    Filter(Expression<P>),
}

/// A logical expression of a filter.
#[derive(Clone, Debug)]
enum Expression<P> {
    Or(Vec<Self>),
    And(Vec<Self>),
    Not(Box<Self>),
    Exists(Query<P>),
    Comparison(Box<(Operand<P>, Comparison, Operand<P>)>),
    /// The functions `match` and `search`; the pattern of `match` is anchored.
    Regex(Box<Operand<P>>, P),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A query inside of a filter.
#[derive(Clone, Debug)]
struct Query<P> {
    /// True for `$`, false for `@`.
    is_absolute: bool,
    segments: Vec<Segment<P>>,
}

/// An expression with one value, or none.
#[derive(Clone, Debug)]
enum Operand<P> {
    Literal(Literal),
    /// A query that selects at most one node, or the function `value` of any query.
    Value(Query<P>),
    Length(Box<Self>),
    Count(Query<P>),
}

#[derive(Clone, Debug)]
enum Literal {
    Null,
    Bool(bool),
    Number(JsonNumber),
    Text(Box<str>),
}

impl<P> JsonPath<P> {
    /// Parses a path. `compile` compiles the patterns of `match` and `search`.
    ///
    /// # Errors
    /// If the path is not as in RFC 9535, or exceeds a limit. The error names `field`.
    pub fn parse(
        field: &str,
        text: &str,
        compile: impl FnMut(&str, &str) -> Result<P, ValidationError>,
    ) -> Result<Self, ValidationError> {
        if text.len() > MAX_PATH_BYTES {
            return Err(ValidationError::new(field, text, format!("at most {MAX_PATH_BYTES} bytes")));
        }
        let segments = parser::parse_path(field, text, compile)?;
        Ok(Self { text: text.into(), segments })
    }

    /// The path as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Name that the last segment selects, if it selects one name.
    pub fn last_name(&self) -> Option<&str> {
        match self.segments.last()?.selectors.as_slice() {
            [Selector::Name(name)] => Some(name),
            _ => None,
        }
    }
}

impl<P> Segment<P> {
    /// Returns true if the segment selects at most one node of each node.
    fn is_singular(&self) -> bool {
        !self.is_descendant && matches!(self.selectors.as_slice(), [Selector::Name(_) | Selector::Index(_)])
    }
}

impl<P> Query<P> {
    /// Returns true if the query selects at most one node.
    fn is_singular(&self) -> bool {
        self.segments.iter().all(Segment::is_singular)
    }
}

impl<P> fmt::Display for JsonPath<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests;
