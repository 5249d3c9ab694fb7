//! Parser of paths: the grammar and the types of RFC 9535, and the limits on work.

use super::{
    Comparison, Expression, Literal, MAX_DESCENDANT_SEGMENTS, MAX_EXPRESSION_DEPTH, Operand, Query, Segment,
    Selector, i_regexp,
    scanner::{Scanner, SyntaxError},
};
use crate::ValidationError;

/// Parses the segments of a path.
pub(super) fn parse_path<P>(
    field: &str,
    text: &str,
    compile: impl FnMut(&str, &str) -> Result<P, ValidationError>,
) -> Result<Vec<Segment<P>>, ValidationError> {
    let mut parser = Parser {
        scanner: Scanner::new(text),
        field,
        compile,
        descendant_count: 0,
        is_in_filter: false,
        depth: 0,
    };
    parser.parse_whole_path().map_err(|why| match why {
        ParseError::Syntax(why) => {
            let position = text[..why.position].chars().count() + 1;
            let allowed = format!("a JSONPath as in RFC 9535 (at character {position}: {})", why.expected);
            ValidationError::new(field, text, allowed)
        }
        ParseError::Pattern(why) => why,
    })
}

struct Parser<'a, F> {
    scanner: Scanner<'a>,
    field: &'a str,
    compile: F,
    descendant_count: usize,
    /// True inside of a filter, in which no other filter may stand.
    is_in_filter: bool,
    /// Depth of parentheses and functions.
    depth: usize,
}

enum ParseError {
    Syntax(SyntaxError),
    Pattern(ValidationError),
}

impl From<SyntaxError> for ParseError {
    fn from(why: SyntaxError) -> Self {
        Self::Syntax(why)
    }
}

/// An argument or an operand before its type is known.
enum Term<P> {
    Literal(Literal),
    Query(Query<P>),
    /// A function with a value.
    Value(Operand<P>),
    /// A function that is true or false.
    Logical(Expression<P>),
}

impl<P, F: FnMut(&str, &str) -> Result<P, ValidationError>> Parser<'_, F> {
    fn parse_whole_path(&mut self) -> Result<Vec<Segment<P>>, ParseError> {
        self.scanner.expect("$")?;
        let segments = self.parse_segments()?;
        match self.scanner.is_at_end() {
            true => Ok(segments),
            false => Err(self.scanner.error("a segment such as .name, [0], [*] or ..name").into()),
        }
    }

    fn parse_segments(&mut self) -> Result<Vec<Segment<P>>, ParseError> {
        let mut segments = Vec::new();
        loop {
            if self.scanner.accept_after_blanks("..") {
                self.descendant_count += 1;
                if self.descendant_count > MAX_DESCENDANT_SEGMENTS {
                    return Err(self.scanner.error("at most two '..' in a path").into());
                }
                let selectors = match self.scanner.peek_char() {
                    Some('[') => self.parse_brackets()?,
                    _ => self.parse_dotted()?,
                };
                segments.push(Segment { is_descendant: true, selectors });
            } else if self.scanner.accept_after_blanks(".") {
                segments.push(Segment { is_descendant: false, selectors: self.parse_dotted()? });
            } else if self.scanner.accept_after_blanks("[") {
                segments.push(Segment { is_descendant: false, selectors: self.parse_selectors()? });
            } else {
                return Ok(segments);
            }
        }
    }

    /// Parses the selector after a dot: `*` or a name.
    fn parse_dotted(&mut self) -> Result<Vec<Selector<P>>, ParseError> {
        let selector = match self.scanner.accept("*") {
            true => Selector::Wildcard,
            false => Selector::Name(self.scanner.read_member_name()?.into()),
        };
        Ok(vec![selector])
    }

    fn parse_brackets(&mut self) -> Result<Vec<Selector<P>>, ParseError> {
        self.scanner.expect("[")?;
        self.parse_selectors()
    }

    /// Parses the selectors after an opening bracket, and the closing one.
    fn parse_selectors(&mut self) -> Result<Vec<Selector<P>>, ParseError> {
        let mut selectors = Vec::new();
        loop {
            self.scanner.skip_blanks();
            selectors.push(self.parse_selector()?);
            self.scanner.skip_blanks();
            if !self.scanner.accept(",") {
                self.scanner.expect("]")?;
                return Ok(selectors);
            }
        }
    }

    fn parse_selector(&mut self) -> Result<Selector<P>, ParseError> {
        match self.scanner.peek_char() {
            Some('\'' | '"') => Ok(Selector::Name(self.scanner.read_string()?.into())),
            Some('*') => {
                self.scanner.expect("*")?;
                Ok(Selector::Wildcard)
            }
            Some('?') if self.is_in_filter => Err(self.scanner.error("no filter inside of a filter").into()),
            Some('?') => {
                self.scanner.expect("?")?;
                self.scanner.skip_blanks();
                self.is_in_filter = true;
                let expression = self.parse_or()?;
                self.is_in_filter = false;
                Ok(Selector::Filter(expression))
            }
            _ => self.parse_index_or_slice(),
        }
    }

    fn parse_index_or_slice(&mut self) -> Result<Selector<P>, ParseError> {
        let start = match self.scanner.peek_char() {
            Some(':') => None,
            Some('-' | '0'..='9') => Some(self.scanner.read_integer()?),
            _ => {
                return Err(self.scanner.error("a name in quotes, a number, a slice, * or a filter").into());
            }
        };
        if !self.scanner.accept_after_blanks(":") {
            return match start {
                Some(index) => Ok(Selector::Index(index)),
                None => Err(self.scanner.error(":").into()),
            };
        }
        let end = self.parse_slice_part()?;
        let step = match self.scanner.accept_after_blanks(":") {
            true => self.parse_slice_part()?,
            false => None,
        };
        Ok(Selector::Slice { start, end, step: step.unwrap_or(1) })
    }

    fn parse_slice_part(&mut self) -> Result<Option<i64>, ParseError> {
        self.scanner.skip_blanks();
        match self.scanner.peek_char() {
            Some('-' | '0'..='9') => Ok(Some(self.scanner.read_integer()?)),
            _ => Ok(None),
        }
    }

    fn parse_or(&mut self) -> Result<Expression<P>, ParseError> {
        let mut alternatives = vec![self.parse_and()?];
        while self.scanner.accept_after_blanks("||") {
            self.scanner.skip_blanks();
            alternatives.push(self.parse_and()?);
        }
        Ok(single_or(alternatives, Expression::Or))
    }

    fn parse_and(&mut self) -> Result<Expression<P>, ParseError> {
        let mut parts = vec![self.parse_basic()?];
        while self.scanner.accept_after_blanks("&&") {
            self.scanner.skip_blanks();
            parts.push(self.parse_basic()?);
        }
        Ok(single_or(parts, Expression::And))
    }

    /// Parses a comparison, a test, or an expression in parentheses.
    fn parse_basic(&mut self) -> Result<Expression<P>, ParseError> {
        if self.scanner.accept("!") {
            self.scanner.skip_blanks();
            let negated = match self.scanner.peek_char() {
                Some('(') => self.parse_parentheses()?,
                _ => {
                    let term = self.parse_term()?;
                    self.build_test(term)?
                }
            };
            return Ok(Expression::Not(Box::new(negated)));
        }
        if self.scanner.peek_char() == Some('(') {
            return self.parse_parentheses();
        }
        let left = self.parse_term()?;
        let Some(comparison) = self.accept_comparison() else { return self.build_test(left) };
        let left = self.build_operand(left)?;
        self.scanner.skip_blanks();
        let right = self.parse_term()?;
        let right = self.build_operand(right)?;
        Ok(Expression::Comparison(Box::new((left, comparison, right))))
    }

    fn parse_parentheses(&mut self) -> Result<Expression<P>, ParseError> {
        self.scanner.expect("(")?;
        self.enter_level()?;
        self.scanner.skip_blanks();
        let expression = self.parse_or()?;
        self.scanner.skip_blanks();
        self.scanner.expect(")")?;
        self.depth -= 1;
        Ok(expression)
    }

    fn enter_level(&mut self) -> Result<(), ParseError> {
        self.depth += 1;
        match self.depth > MAX_EXPRESSION_DEPTH {
            true => Err(self.scanner.error("at most 32 levels of parentheses").into()),
            false => Ok(()),
        }
    }

    fn accept_comparison(&mut self) -> Option<Comparison> {
        [
            ("==", Comparison::Equal),
            ("!=", Comparison::NotEqual),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ]
        .into_iter()
        .find_map(|(token, comparison)| self.scanner.accept_after_blanks(token).then_some(comparison))
    }

    fn parse_term(&mut self) -> Result<Term<P>, ParseError> {
        if let Some(literal) = self.scanner.read_literal()? {
            return Ok(Term::Literal(literal));
        }
        let is_absolute = self.scanner.starts_with("$");
        if self.scanner.accept("@") || self.scanner.accept("$") {
            return Ok(Term::Query(Query { is_absolute, segments: self.parse_segments()? }));
        }
        for name in ["length", "count", "value", "match", "search"] {
            if self.scanner.accept(name) {
                self.scanner.expect("(")?;
                self.enter_level()?;
                self.scanner.skip_blanks();
                let term = self.parse_function(name)?;
                self.scanner.skip_blanks();
                self.scanner.expect(")")?;
                self.depth -= 1;
                return Ok(term);
            }
        }
        let expected = "a value, @, $, or a function: length, count, value, match, search";
        Err(self.scanner.error(expected).into())
    }

    /// Parses the arguments of a function.
    fn parse_function(&mut self, name: &str) -> Result<Term<P>, ParseError> {
        let argument = self.parse_term()?;
        match name {
            "length" => Ok(Term::Value(Operand::Length(Box::new(self.build_operand(argument)?)))),
            "count" => Ok(Term::Value(Operand::Count(self.build_query(argument)?))),
            "value" => Ok(Term::Value(Operand::Value(self.build_query(argument)?))),
            _ => {
                let text = self.build_operand(argument)?;
                self.scanner.skip_blanks();
                self.scanner.expect(",")?;
                self.scanner.skip_blanks();
                // A pattern from the body would be compiled at every check, and at the will of the
                // site.
                let pattern = match self.parse_term()? {
                    Term::Literal(Literal::Text(pattern)) => pattern,
                    _ => return Err(self.scanner.error("a pattern in quotes before here").into()),
                };
                let translated = i_regexp::translate_pattern(&pattern, name == "match");
                let compiled = (self.compile)(self.field, &translated).map_err(|why| {
                    ParseError::Pattern(ValidationError::new(why.field, &pattern, why.expected))
                })?;
                Ok(Term::Logical(Expression::Regex(Box::new(text), compiled)))
            }
        }
    }

    fn build_operand(&self, term: Term<P>) -> Result<Operand<P>, ParseError> {
        match term {
            Term::Literal(literal) => Ok(Operand::Literal(literal)),
            Term::Query(query) if query.is_singular() => Ok(Operand::Value(query)),
            Term::Value(operand) => Ok(operand),
            Term::Query(_) => Err(self.scanner.error("a path to a single value before here").into()),
            Term::Logical(_) => Err(self.scanner.error("no comparison of a condition before here").into()),
        }
    }

    fn build_query(&self, term: Term<P>) -> Result<Query<P>, ParseError> {
        match term {
            Term::Query(query) => Ok(query),
            _ => Err(self.scanner.error("a path, such as @.items[*], before here").into()),
        }
    }

    fn build_test(&self, term: Term<P>) -> Result<Expression<P>, ParseError> {
        match term {
            Term::Query(query) => Ok(Expression::Exists(query)),
            Term::Logical(expression) => Ok(expression),
            Term::Literal(_) | Term::Value(_) => Err(self.scanner.error("a comparison, such as == 1").into()),
        }
    }
}

/// The only expression of `parts`, or all of them joined.
fn single_or<P>(
    mut parts: Vec<Expression<P>>,
    join: fn(Vec<Expression<P>>) -> Expression<P>,
) -> Expression<P> {
    match (parts.len(), parts.pop()) {
        (1, Some(only)) => only,
        (_, last) => {
            parts.extend(last);
            join(parts)
        }
    }
}
