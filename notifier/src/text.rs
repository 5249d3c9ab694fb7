//! The built-in layout of messages: what is said of a message, in the markup of a receiver.
//!
//! Names, causes and explanations are texts of websites. Each is made visible, shortened, and then
//! escaped; a text is cut between items or lines only, so that no markup is torn.

mod markup;
mod words;

use picket_proto::{Timestamp, duration::describe_duration, validation::sanitize_text};

pub use self::{
    markup::{Html, Markup, Plain},
    words::{
        describe_count, describe_counts, describe_item, describe_more, describe_names, describe_phases,
        describe_regions, format_time,
    },
};
use crate::message::{Item, Message, Purpose, Severity, Verdict};

/// Maximum length of a title, of a note and of the value of a line, in bytes before escaping.
const MAX_VALUE_BYTES: usize = 300;
/// Items that are laid out; further ones count as hidden.
const MAX_ITEMS: usize = 100;
/// Tags shown of an item.
const MAX_TAGS: usize = 10;

/// Sentence of a message whose earlier attempt has an unknown end.
const REPEAT_NOTE: &str = "Sent again: the first try's end is unknown.";

/// Parts of a message in the markup of a receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// A single line with the verdict.
    pub title: String,
    /// Sentences above the items.
    pub notes: Vec<String>,
    /// Items, the most important first.
    pub items: Vec<ItemText>,
    /// Number of items that the message does not show.
    pub hidden_items: usize,
    /// Frequencies over all items of a digest, a single line each.
    pub counts: Vec<String>,
    /// Link to the page about the message.
    pub link: Option<String>,
}

/// An item in the markup of a receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemText {
    /// A single line with the verdict; absent if the title of the message says it.
    pub heading: Option<String>,
    /// Facts, the most important first.
    pub lines: Vec<Line>,
}

/// A fact of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Word for the fact.
    pub label: &'static str,
    /// The fact, in markup.
    pub value: String,
}

/// The title of `message` as a single line without markup.
pub fn title_line(message: &Message) -> String {
    let title = sanitize_text(&message.title, MAX_VALUE_BYTES);
    match message.purpose {
        Purpose::Test if !title.starts_with("TEST") => format!("TEST: {title}"),
        _ => title,
    }
}

/// Sentences above the items, as lines without markup.
pub fn note_lines(message: &Message) -> Vec<String> {
    let notes = message.notes.iter().map(|note| sanitize_text(note, MAX_VALUE_BYTES));
    notes.chain(message.is_repeat.then(|| REPEAT_NOTE.to_owned())).collect()
}

/// True if a channel mentions people in `message` where its settings ask for that: something is
/// down, and this is no test.
pub fn deserves_mention(message: &Message) -> bool {
    message.severity == Severity::Critical && message.purpose != Purpose::Test
}

impl Layout {
    /// Lays out `message`.
    pub fn new(message: &Message, markup: &impl Markup) -> Self {
        if let Some(body) = &message.body {
            return Self::of_body(message, body, markup);
        }
        let is_alone = message.items.len() == 1 && message.hidden_items == 0;
        let items = message.items.iter().take(MAX_ITEMS);
        let text = |value: &str| markup.escape(&sanitize_text(value, MAX_VALUE_BYTES));
        Self {
            title: markup.escape(&title_line(message)),
            notes: note_lines(message).iter().map(|note| markup.escape(note)).collect(),
            items: items
                .map(|item| ItemText {
                    heading: (!is_alone).then(|| markup.bold(&text(&describe_item(item)))),
                    lines: item_lines(item, message.link.as_deref(), markup),
                })
                .collect(),
            hidden_items: message.hidden_items + message.items.len().saturating_sub(MAX_ITEMS),
            counts: describe_counts(&message.counts).iter().map(|line| markup.escape(line)).collect(),
            link: link_of_message(message, markup),
        }
    }

    /// Lays out the text of a template, line by line.
    fn of_body(message: &Message, body: &str, markup: &impl Markup) -> Self {
        let lines = body.lines().map(|line| sanitize_text(line, MAX_VALUE_BYTES));
        Self {
            title: markup.escape(&title_line(message)),
            notes: note_lines(message).into_iter().chain(lines).map(|line| markup.escape(&line)).collect(),
            items: Vec::new(),
            hidden_items: 0,
            counts: Vec::new(),
            link: link_of_message(message, markup),
        }
    }

    /// The same without the link, for receivers with a separate field for links.
    pub fn without_link(self) -> Self {
        Self { link: None, ..self }
    }

    /// The title and everything below it, at most `cap` long by `measure`. Details go first, the
    /// last lines before the first; then items from the end, which are counted.
    pub fn fit_text(&self, cap: usize, measure: impl Fn(&str) -> usize, markup: &impl Markup) -> String {
        let head = markup.bold(&self.title);
        let fits = |text: &str| measure(text) <= cap;
        match self.assemble_first(|body| fits(&join_lines(&head, body))) {
            Some(body) => join_lines(&head, &body),
            None if fits(&head) => head,
            None => cut_text(&self.title, cap, &measure),
        }
    }

    /// Everything below the title, at most `cap` long by `measure`; empty if nothing fits.
    pub fn fit_body(&self, cap: usize, measure: impl Fn(&str) -> usize) -> String {
        self.assemble_first(|body| measure(body) <= cap).unwrap_or_default()
    }

    /// The longest body that `fits`.
    fn assemble_first(&self, fits: impl Fn(&str) -> bool) -> Option<String> {
        let most_lines = self.items.iter().map(|item| item.lines.len()).max().unwrap_or(0);
        let with_details = (0..=most_lines).rev().map(|lines| (self.items.len(), lines));
        let with_fewer_items = (0..self.items.len()).rev().map(|shown| (shown, 0));
        let mut bodies =
            with_details.chain(with_fewer_items).map(|(shown, lines)| self.assemble(shown, lines));
        bodies.find(|body| fits(body))
    }

    fn assemble(&self, shown: usize, lines: usize) -> String {
        let mut all: Vec<String> = self.notes.iter().chain(&self.counts).cloned().collect();
        for item in &self.items[..shown] {
            all.extend(item.heading.clone());
            all.extend(item.lines.iter().take(lines).map(|line| format!("{}: {}", line.label, line.value)));
        }
        let hidden = self.hidden_items + self.items.len() - shown;
        // A sole item without a heading is the title, which hides nothing.
        let is_in_title = self.items.len() == 1 && self.items[0].heading.is_none();
        if hidden > 0 && !is_in_title {
            all.push(describe_more(hidden));
        }
        all.extend(self.link.clone());
        all.join("\n")
    }
}

fn join_lines(head: &str, body: &str) -> String {
    match body.is_empty() {
        true => head.to_owned(),
        false => format!("{head}\n{body}"),
    }
}

/// The start of `text` that is at most `cap` long by `measure`. For texts without markup, or where
/// a torn escape sequence does no harm.
pub fn cut_text(text: &str, cap: usize, measure: &impl Fn(&str) -> usize) -> String {
    if measure(text) <= cap {
        return text.to_owned();
    }
    let ends: Vec<usize> = text.char_indices().map(|(index, _)| index).collect();
    let with_mark = |end: usize| format!("{}…", &text[..end]);
    let fitting = ends.partition_point(|end| measure(&with_mark(*end)) <= cap);
    fitting.checked_sub(1).map(|last| with_mark(ends[last])).unwrap_or_default()
}

/// `text` in parts of whole lines, each at most `cap` long by `measure`.
pub fn split_lines(text: &str, cap: usize, measure: impl Fn(&str) -> usize) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for line in text.lines() {
        let longer = parts.last().map(|part| format!("{part}\n{line}"));
        match longer.filter(|part| measure(part) <= cap) {
            Some(longer) => drop(parts.pop().map(|_| parts.push(longer))),
            None => parts.push(cut_text(line, cap, &measure)),
        }
    }
    parts
}

/// Length of `text` in the units of JavaScript and of Telegram.
pub fn count_utf16(text: &str) -> usize {
    text.encode_utf16().count()
}

/// The link of the message.
fn link_of_message(message: &Message, markup: &impl Markup) -> Option<String> {
    message.link.as_deref().map(|url| link_or_text("Open in Picket", url, markup))
}

/// Facts of an item. The item's link is left out if the message has the same.
fn item_lines(item: &Item, message_link: Option<&str>, markup: &impl Markup) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut add = |label: &'static str, value: Option<String>| {
        lines.extend(value.map(|value| Line { label, value }));
    };
    let text = |value: &str| markup.escape(&sanitize_text(value, MAX_VALUE_BYTES));
    add("Note", item.note.as_deref().map(text));
    add("Address", item.url.as_deref().map(|url| link_or_text(url, url, markup)));
    add("Cause", describe_cause(item).as_deref().map(text));
    add("Regions", describe_regions(item).as_deref().map(text));
    match (item.verdict, item.closed_at) {
        (Verdict::Test, _) => {}
        (Verdict::Up | Verdict::WasDown | Verdict::Unwatched, Some(closed_at)) => {
            add("Down", Some(describe_span(item, closed_at, markup)));
        }
        (_, Some(closed_at)) => add("Lasted", Some(describe_span(item, closed_at, markup))),
        (_, None) => add("Since", Some(describe_start(item, markup))),
    }
    add("HTTP status", item.http_status.map(|status| status.to_string()));
    add("Failed checks", item.failed_checks.map(|count| count.to_string()));
    add("Phases", describe_phases(&item.phases).as_deref().map(text));
    let tags = words::list_names(&item.tags, MAX_TAGS);
    add("Tags", tags.as_deref().map(text));
    match (&item.link, item.incident_id) {
        (Some(url), id) if message_link != Some(url.as_str()) => {
            let number = id.map_or("page".to_owned(), |id| format!("incident {id}"));
            add("Details", Some(link_or_text(&number, url, markup)));
        }
        // The number is what a person types to acknowledge.
        (_, id) => add("Incident", id.map(|id| id.to_string())),
    }
    lines
}

/// The cause in words and the prober's explanation, which may repeat it.
fn describe_cause(item: &Item) -> Option<String> {
    match (&item.cause, &item.explanation) {
        (Some(cause), Some(more)) if more.contains(cause.as_str()) => Some(more.clone()),
        (Some(cause), Some(more)) => Some(format!("{cause}: {more}")),
        (cause, more) => cause.clone().or_else(|| more.clone()),
    }
}

fn describe_start(item: &Item, markup: &impl Markup) -> String {
    let duration = markup.escape(&describe_duration(item.duration));
    let opened = markup.time(item.opened_at);
    match item.first_failure_at.filter(|first| *first < item.opened_at) {
        Some(first) => format!("{} (first failure), opened {opened}, {duration} ago", markup.time(first)),
        None => format!("{opened}, {duration} ago"),
    }
}

fn describe_span(item: &Item, to: Timestamp, markup: &impl Markup) -> String {
    let duration = markup.escape(&describe_duration(item.duration));
    format!("{} to {}, {duration}", markup.time(item.opened_at), markup.time(to))
}

/// A link if `url` can be one; otherwise a text.
fn link_or_text(label: &str, url: &str, markup: &impl Markup) -> String {
    let label = sanitize_text(label, MAX_VALUE_BYTES);
    match url::Url::parse(url) {
        Ok(parsed) if matches!(parsed.scheme(), "http" | "https") && url.len() <= MAX_VALUE_BYTES => {
            markup.link(&label, parsed.as_str())
        }
        _ => markup.escape(&label),
    }
}

#[cfg(test)]
mod tests;
