//! Markup of receivers, as far as the layout needs it.

use picket_proto::Timestamp;

use super::words::format_time;

/// Rules of a receiver for texts.
pub trait Markup {
    /// `text` so that the receiver shows it as it is and obeys nothing in it.
    fn escape(&self, text: &str) -> String;

    /// `marked`, a text in markup, in bold.
    fn bold(&self, marked: &str) -> String;

    /// A link to `url`, shown as `label`. Neither is escaped yet; `url` is valid.
    fn link(&self, label: &str, url: &str) -> String;

    /// A time, in the reader's zone where the receiver can.
    fn time(&self, at: Timestamp) -> String {
        self.escape(&format_time(at))
    }
}

/// Text without markup.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

impl Markup for Plain {
    fn escape(&self, text: &str) -> String {
        text.to_owned()
    }

    fn bold(&self, marked: &str) -> String {
        marked.to_owned()
    }

    fn link(&self, label: &str, url: &str) -> String {
        match url.trim_end_matches('/') == label.trim_end_matches('/') {
            true => label.to_owned(),
            false => format!("{label} {url}"),
        }
    }
}

/// The elements of HTML that mail readers, Telegram and Matrix know.
#[derive(Clone, Copy, Debug)]
pub struct Html;

impl Markup for Html {
    fn escape(&self, text: &str) -> String {
        let mut escaped = String::with_capacity(text.len());
        for character in text.chars() {
            match character {
                '&' => escaped.push_str("&amp;"),
                '<' => escaped.push_str("&lt;"),
                '>' => escaped.push_str("&gt;"),
                '"' => escaped.push_str("&quot;"),
                '\'' => escaped.push_str("&#39;"),
                _ => escaped.push(character),
            }
        }
        escaped
    }

    fn bold(&self, marked: &str) -> String {
        format!("<b>{marked}</b>")
    }

    fn link(&self, label: &str, url: &str) -> String {
        format!("<a href=\"{}\">{}</a>", self.escape(url), self.escape(label))
    }
}
