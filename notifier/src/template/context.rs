//! What a template knows of a message.

use minijinja::{Value, value::Serde};
use picket_proto::{Timestamp, validation::sanitize_text};
use serde_json::{Map, Value as Json};

use super::{MAX_OUTPUT_BYTES, Markup, escaped_value};
use crate::{
    message::Message,
    text::{self, Html, Layout, Plain},
};

/// Maximum length of a text of a website.
const MAX_VALUE_BYTES: usize = 2_000;

/// The fields of `message` as in the JSON for programs, each item with the `word` of its verdict,
/// and the built-in layout as `text`.
pub(super) fn build_context(message: &Message, markup: Markup) -> Value {
    let mut fields = match serde_json::to_value(message) {
        Ok(Json::Object(fields)) => fields,
        _ => Map::new(),
    };
    // The table may be larger than everything that a template may print.
    fields.remove("csv");
    if let Some(Json::Array(items)) = fields.get_mut("items") {
        for (fields, item) in items.iter_mut().zip(&message.items) {
            fields["word"] = item.verdict.as_word().into();
        }
    }
    let visible = Json::Object(fields.into_iter().map(|(name, value)| (name, make_visible(value))).collect());
    let layout = lay_out(message, markup);
    let text = match markup {
        Markup::Json => Value::from(layout),
        _ => escaped_value(layout),
    };
    minijinja::context! { text, ..Value::from(Serde(visible)) }
}

/// Each text on one line, without characters that are invisible or obeyed.
fn make_visible(value: Json) -> Json {
    match value {
        Json::String(text) => Json::String(sanitize_text(&text, MAX_VALUE_BYTES)),
        Json::Array(values) => Json::Array(values.into_iter().map(make_visible).collect()),
        Json::Object(fields) => {
            Json::Object(fields.into_iter().map(|(name, value)| (name, make_visible(value))).collect())
        }
        other => other,
    }
}

fn lay_out(message: &Message, markup: Markup) -> String {
    // Room for what the template adds.
    const MAX_TEXT_BYTES: usize = MAX_OUTPUT_BYTES / 2;
    match markup {
        Markup::Line | Markup::Plain | Markup::Json => {
            Layout::new(message, &Plain).fit_text(MAX_TEXT_BYTES, str::len, &Plain)
        }
        Markup::Html => {
            let text = Layout::new(message, &Html).fit_text(MAX_TEXT_BYTES, str::len, &Html);
            text.replace('\n', "<br>\n")
        }
        Markup::Receiver(markup) => {
            let markup = Delegate(markup);
            Layout::new(message, &markup).fit_text(MAX_TEXT_BYTES, str::len, &markup)
        }
    }
}

/// A markup behind a reference.
struct Delegate(&'static (dyn text::Markup + Send + Sync));

impl text::Markup for Delegate {
    fn escape(&self, text: &str) -> String {
        self.0.escape(text)
    }

    fn bold(&self, marked: &str) -> String {
        self.0.bold(marked)
    }

    fn link(&self, label: &str, url: &str) -> String {
        self.0.link(label, url)
    }

    fn time(&self, at: Timestamp) -> String {
        self.0.time(at)
    }
}
