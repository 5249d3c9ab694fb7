//! Templates of titles and texts (minijinja): checked when they are saved, and bounded when they are
//! rendered.
//!
//! A template that fails when a message is sent does not lose the message: the built-in layout takes
//! its place, and the attempt says so. Whatever a template prints is escaped for its receiver.

mod context;
mod filters;
pub mod reference;

use std::{fmt, io};

use minijinja::{
    AutoEscape, Environment, ErrorKind, UndefinedBehavior, Value,
    machinery::{Token, tokenize},
    syntax::SyntaxConfig,
    value::ValueKind,
};
use picket_proto::{ValidationError, validation::sanitize_text};

use crate::{
    message::Message,
    samples,
    text::{self, Html, Plain},
};

/// Maximum size of a template.
pub const MAX_TEMPLATE_BYTES: usize = 16 << 10;
/// Maximum size of what a template prints.
pub const MAX_OUTPUT_BYTES: usize = 64 << 10;
/// Work that a template may cause: about as many steps, or 64 bytes each.
const FUEL: u64 = 100_000;
/// Macros that may call each other.
const MAX_DEPTH: usize = 50;
/// Sentence about a template without JSON.
const JSON_HINT: &str = "a value is printed with its quotation marks, so write {\"text\": {{ title }}} without marks around \
     {{ title }}, and {{ title ~ '!' }} to join texts";
/// Sentence about an undefined variable.
const UNDEFINED_HINT: &str = "the reference of channels lists all variables; one that not every message has needs a default, as in \
     {{ event.data.incident_id|default(none) }}";

/// What a template prints, which decides how values are escaped.
#[derive(Clone, Copy)]
pub enum Markup {
    /// A single line of text.
    Line,
    /// Text without markup.
    Plain,
    /// HTML.
    Html,
    /// JSON, where each printed value is a value of JSON with its quotes.
    Json,
    /// The markup of a receiver.
    Receiver(&'static (dyn text::Markup + Send + Sync)),
}

impl Markup {
    fn escape(self, text: &str) -> String {
        use text::Markup as _;
        match self {
            Self::Line | Self::Plain | Self::Json => Plain.escape(text),
            Self::Html => Html.escape(text),
            Self::Receiver(markup) => markup.escape(text),
        }
    }
}

/// Reason why a template is not usable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError {
    /// Line of the template, if one is at fault.
    pub line: Option<usize>,
    /// What is wrong.
    pub why: String,
    /// Sentence about the right way.
    pub hint: Option<&'static str>,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.why),
            None => f.write_str(&self.why),
        }
    }
}

impl TemplateError {
    fn of_whole(why: String) -> Self {
        Self { line: None, why, hint: None }
    }
}

/// A text for a message, and the reason why it is not that of the template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendering {
    /// The text.
    pub text: String,
    /// Sentence for the attempt, if the template failed.
    pub note: Option<String>,
}

/// Checks the template in `field` with a message of each sort.
///
/// # Errors
/// If it is too large, is no template, or fails. The error names the line.
pub fn check_template(field: &str, source: &str, markup: Markup) -> Result<(), ValidationError> {
    if source.len() > MAX_TEMPLATE_BYTES {
        let allowed = format!("a template of at most {MAX_TEMPLATE_BYTES} bytes");
        return Err(ValidationError::new(field, format_args!("{} bytes", source.len()), allowed));
    }
    for (sort, message) in sample_messages(markup) {
        render(source, markup, &message).map_err(|error| {
            let line = error.line.and_then(|line| source.lines().nth(line.saturating_sub(1)));
            let hint = error.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
            let allowed = format!("a template that can be rendered ({sort}): {error}{hint}");
            ValidationError::new(field, line.unwrap_or(source).trim(), allowed)
        })?;
    }
    Ok(())
}

fn sample_messages(markup: Markup) -> Vec<(&'static str, Message)> {
    let mut samples = vec![
        ("one site down", samples::down()),
        ("one site up", samples::up()),
        ("many sites down", samples::digest()),
        ("one warning", samples::warning()),
        ("a test", samples::test()),
    ];
    // Programs receive one event a message, unless a route groups them.
    if matches!(markup, Markup::Json) {
        samples.retain(|(_, message)| message.event.is_some());
    }
    samples
}

/// The text of `template` for `message`, or that of `layout` without a template or if it fails.
pub fn render_or_else(
    template: Option<&str>,
    field: &str,
    markup: Markup,
    message: &Message,
    layout: impl FnOnce(&Message) -> String,
) -> Rendering {
    match template.map(|source| render(source, markup, message)) {
        Some(Ok(text)) => Rendering { text, note: None },
        Some(Err(error)) => Rendering { text: layout(message), note: Some(describe_failure(field, &error)) },
        None => Rendering { text: layout(message), note: None },
    }
}

/// Sentence for the attempt about a template that failed.
pub(crate) fn describe_failure(field: &str, error: &TemplateError) -> String {
    format!("sent in the built-in layout, because template '{field}' failed: {error}")
}

/// Renders a template with bounded work.
///
/// # Errors
/// If it is no template, fails, prints nothing, too much, or something else than JSON where that is
/// needed.
pub fn render(source: &str, markup: Markup, message: &Message) -> Result<String, TemplateError> {
    if source.len() > MAX_TEMPLATE_BYTES {
        return Err(TemplateError::of_whole(format!("it is larger than {MAX_TEMPLATE_BYTES} bytes")));
    }
    refuse_repetition(source)?;
    let environment = build_environment(markup);
    let template = environment.template_from_str(source).map_err(|error| explain_error(&error))?;
    let printed =
        template.render(context::build_context(message, markup)).map_err(|error| explain_error(&error))?;
    if printed.len() > MAX_OUTPUT_BYTES {
        let why = format!("it prints {} bytes, which is more than {MAX_OUTPUT_BYTES}", printed.len());
        return Err(TemplateError::of_whole(why));
    }
    if printed.trim().is_empty() {
        return Err(TemplateError::of_whole("it prints nothing".to_owned()));
    }
    match markup {
        Markup::Line => Ok(join_lines(&printed)),
        Markup::Json => match serde_json::from_str::<serde_json::Value>(&printed) {
            Ok(_) => Ok(printed),
            Err(error) => Err(TemplateError {
                hint: Some(JSON_HINT),
                ..TemplateError::of_whole(format!("it prints no JSON: {error} of what is printed"))
            }),
        },
        _ => Ok(printed),
    }
}

/// Refuses the operators that repeat a list: a repeated list is made only while it is converted to a
/// text, and fuel does not bound that.
fn refuse_repetition(source: &str) -> Result<(), TemplateError> {
    let refused = |line: u32| TemplateError {
        line: usize::try_from(line).ok(),
        why: "the operators * and ** are not allowed in templates".to_owned(),
        hint: None,
    };
    for token in tokenize(source, false, SyntaxConfig::default()) {
        match token {
            Ok((Token::Mul | Token::Pow, span)) => return Err(refused(span.start_line.into())),
            Ok(_) => {}
            Err(error) => return Err(explain_error(&error)),
        }
    }
    Ok(())
}

fn join_lines(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn build_environment(markup: Markup) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(MAX_DEPTH);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // Errors then name what is undefined.
    environment.set_debug(true);
    environment.set_auto_escape_callback(move |_| match markup {
        Markup::Json => AutoEscape::Json,
        _ => AutoEscape::Custom("receiver".into()),
    });
    environment.set_formatter(move |out, _, value| {
        // Blocks of the template itself, whose values are escaped already.
        if value.is_safe() {
            return Ok(out.write_str(&value.to_string())?);
        }
        Ok(out.write_str(&print_value(value, markup)?)?)
    });
    // Nothing that a website says may reach a receiver unescaped.
    environment.remove_filter("safe");
    filters::add_filters(&mut environment);
    environment
}

/// The text of a printed value, escaped.
fn print_value(value: &Value, markup: Markup) -> Result<String, minijinja::Error> {
    let refused = |why: String| minijinja::Error::new(ErrorKind::InvalidOperation, why);
    if matches!(markup, Markup::Json) {
        // A repeated list is made while it is written, which fuel does not bound.
        let mut json = LimitedWriter(Vec::new());
        serde_json::to_writer(&mut json, value).map_err(|why| refused(format!("not printed: {why}")))?;
        return String::from_utf8(json.0).map_err(|_| refused("not printed: it is no text".to_owned()));
    }
    match value.kind() {
        ValueKind::None => Ok(String::new()),
        ValueKind::String | ValueKind::Number | ValueKind::Bool => Ok(markup.escape(&value.to_string())),
        kind => Err(refused(format!("a {kind} cannot be printed; print its parts, by a loop or by join"))),
    }
}

/// Bytes up to [`MAX_OUTPUT_BYTES`].
struct LimitedWriter(Vec<u8>);

impl io::Write for LimitedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT_BYTES {
            return Err(io::Error::other(format!("it is longer than {MAX_OUTPUT_BYTES} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn explain_error(error: &minijinja::Error) -> TemplateError {
    const MAX_WHY_BYTES: usize = 300;
    let why = match error.kind() {
        ErrorKind::OutOfFuel => "it takes too many steps, or prints too much".to_owned(),
        kind => match error.detail() {
            Some(detail) => format!("{kind}: {detail}"),
            None => kind.to_string(),
        },
    };
    let hint = (error.kind() == ErrorKind::UndefinedError).then_some(UNDEFINED_HINT);
    TemplateError { line: error.line(), why: sanitize_text(&why, MAX_WHY_BYTES), hint }
}

/// A text escaped already.
fn escaped_value(text: String) -> Value {
    Value::from_safe_string(text)
}

#[cfg(test)]
mod tests;
