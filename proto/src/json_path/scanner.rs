//! Position in the text of a path, and the tokens that RFC 9535 defines by characters.

use super::{JsonNumber, Literal};

/// Reason why a text is no path, with the byte at which it fails.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) position: usize,
    pub(super) expected: &'static str,
}

/// Reader of a path, character by character.
pub(super) struct Scanner<'a> {
    text: &'a str,
    position: usize,
}

impl<'a> Scanner<'a> {
    /// Largest number that JavaScript keeps exact, which RFC 9535 allows as index.
    const MAX_INTEGER: i64 = (1 << 53) - 1;

    pub(super) fn new(text: &'a str) -> Self {
        Self { text, position: 0 }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.position..]
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.position == self.text.len()
    }

    pub(super) fn error(&self, expected: &'static str) -> SyntaxError {
        SyntaxError { position: self.position, expected }
    }

    pub(super) fn peek_char(&self) -> Option<char> {
        self.rest().chars().next()
    }

    pub(super) fn starts_with(&self, token: &str) -> bool {
        self.rest().starts_with(token)
    }

    /// Consumes `token` if it is next.
    pub(super) fn accept(&mut self, token: &str) -> bool {
        let is_next = self.starts_with(token);
        if is_next {
            self.position += token.len();
        }
        is_next
    }

    pub(super) fn expect(&mut self, token: &'static str) -> Result<(), SyntaxError> {
        if self.accept(token) { Ok(()) } else { Err(self.error(token)) }
    }

    pub(super) fn skip_blanks(&mut self) {
        self.take_while(|letter| matches!(letter, ' ' | '\t' | '\n' | '\r'));
    }

    /// Skips blanks if `token` follows them, and consumes it.
    pub(super) fn accept_after_blanks(&mut self, token: &str) -> bool {
        let before = self.position;
        self.skip_blanks();
        let is_next = self.accept(token);
        if !is_next {
            self.position = before;
        }
        is_next
    }

    pub(super) fn take_while(&mut self, is_part: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let length = rest.find(|letter| !is_part(letter)).unwrap_or(rest.len());
        self.position += length;
        &rest[..length]
    }

    /// Reads the name after a dot, such as `status`.
    pub(super) fn read_member_name(&mut self) -> Result<&'a str, SyntaxError> {
        let is_first = |letter: char| letter.is_ascii_alphabetic() || letter == '_' || letter >= '\u{80}';
        if !self.peek_char().is_some_and(is_first) {
            return Err(self.error("a name, such as .status or ['a name']"));
        }
        Ok(self.take_while(|letter| is_first(letter) || letter.is_ascii_digit()))
    }

    /// Reads an index or a part of a slice.
    pub(super) fn read_integer(&mut self) -> Result<i64, SyntaxError> {
        let start = self.position;
        let is_negative = self.accept("-");
        let digits = self.take_while(|letter| letter.is_ascii_digit());
        let value = digits.parse::<i64>().ok().filter(|value| *value <= Self::MAX_INTEGER);
        match value {
            Some(value) if !(has_extra_zero(digits) || is_negative && value == 0) => {
                Ok(if is_negative { -value } else { value })
            }
            _ => Err(SyntaxError { position: start, expected: "a whole number without leading zeros" }),
        }
    }

    /// Reads a number, text, `true`, `false` or `null`; `None` if none of them is next.
    pub(super) fn read_literal(&mut self) -> Result<Option<Literal>, SyntaxError> {
        for (word, literal) in
            [("true", Literal::Bool(true)), ("false", Literal::Bool(false)), ("null", Literal::Null)]
        {
            if self.accept(word) {
                return Ok(Some(literal));
            }
        }
        match self.peek_char() {
            Some('\'' | '"') => Ok(Some(Literal::Text(self.read_string()?.into()))),
            Some('-' | '0'..='9') => Ok(Some(Literal::Number(self.read_number()?))),
            _ => Ok(None),
        }
    }

    fn read_number(&mut self) -> Result<JsonNumber, SyntaxError> {
        const EXPECTED: &str = "a number as in JSON";
        let start = self.position;
        self.accept("-");
        let digits = self.take_while(|letter| letter.is_ascii_digit());
        let mut is_number = !digits.is_empty() && !has_extra_zero(digits);
        if self.accept(".") {
            is_number &= !self.take_while(|letter| letter.is_ascii_digit()).is_empty();
        }
        if self.accept("e") || self.accept("E") {
            let _ = self.accept("-") || self.accept("+");
            is_number &= !self.take_while(|letter| letter.is_ascii_digit()).is_empty();
        }
        let text = &self.text[start..self.position];
        JsonNumber::parse(text)
            .filter(|_| is_number)
            .ok_or(SyntaxError { position: start, expected: EXPECTED })
    }

    /// Reads a text in single or double quotes.
    pub(super) fn read_string(&mut self) -> Result<String, SyntaxError> {
        let quote = self.peek_char().filter(|letter| matches!(letter, '\'' | '"'));
        let quote = quote.ok_or_else(|| self.error("a text in quotes"))?;
        self.position += 1;
        let mut text = String::new();
        loop {
            text.push_str(self.take_while(|letter| letter != quote && letter != '\\' && letter >= ' '));
            match self.peek_char() {
                Some(letter) if letter == quote => {
                    self.position += 1;
                    return Ok(text);
                }
                Some('\\') => {
                    self.position += 1;
                    text.push(self.read_escape(quote)?);
                }
                Some(_) => return Err(self.error("no control character in a text")),
                None => return Err(self.error("the closing quote of a text")),
            }
        }
    }

    /// Reads an escape after its backslash.
    fn read_escape(&mut self, quote: char) -> Result<char, SyntaxError> {
        let letter = match self.peek_char() {
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => {
                self.position += 1;
                return self.read_unicode_escape();
            }
            Some(letter) if matches!(letter, '/' | '\\') || letter == quote => letter,
            _ => return Err(self.error("an escape as in JSON")),
        };
        self.position += 1;
        Ok(letter)
    }

    fn read_unicode_escape(&mut self) -> Result<char, SyntaxError> {
        const EXPECTED: &str = "four hexadecimal digits of a character, or a pair of surrogates";
        let start = self.position;
        let refusal = SyntaxError { position: start, expected: EXPECTED };
        let Some(high) = self.read_four_hex_digits() else { return Err(refusal) };
        let code = match high {
            0xd800..=0xdbff if self.accept("\\u") => match self.read_four_hex_digits() {
                Some(low @ 0xdc00..=0xdfff) => 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00),
                _ => return Err(refusal),
            },
            code => code,
        };
        char::from_u32(code).ok_or(refusal)
    }

    fn read_four_hex_digits(&mut self) -> Option<u32> {
        let digits = self.rest().get(..4)?;
        let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let code = is_hex.then(|| u32::from_str_radix(digits, 16).ok())??;
        self.position += 4;
        Some(code)
    }
}

fn has_extra_zero(digits: &str) -> bool {
    digits.len() > 1 && digits.starts_with('0')
}
