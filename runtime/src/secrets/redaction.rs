//! Redaction: removes the values of secrets from texts before they are logged or published.
//!
//! A value is found as it is, as an escaped text (JSON, `Debug`), in any mixture of percent-encoded
//! and plain characters, and in base64 at each of the three alignments, so that the `user:password`
//! of Basic authentication is found as well. A line of a private key is a value of its own.
//!
//! Values that cannot be searched for are never published either: every text of the process is then
//! replaced as a whole.
//!
//! A part of a value is not redacted: a person who can have a text published would learn from the
//! redaction of guesses how a value begins, and then its next characters. Texts that may contain a
//! value are therefore redacted before they are truncated.

mod forms;

use std::{
    borrow::Cow,
    collections::VecDeque,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    ops::Range,
    sync::{Arc, LazyLock, Once, Weak},
};

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use parking_lot::RwLock;
use prometheus_client::metrics::counter::Counter;
use serde_json::Value;
use tracing::error;

use self::forms::Form;
use super::SecretValue;

/// Number of groups of the values that are obtained at run time.
const TOKEN_GROUPS: usize = 32;
/// Text in place of a value.
const PLACEHOLDER: &str = "[redacted]";
/// Text in place of a whole text, if values cannot be searched for.
const WITHHELD_TEXT: &str = "[withheld: the secrets of this process cannot be searched for in texts]";

/// Redactors of this process; logs pass through all of them.
static PROCESS_REDACTORS: RwLock<Vec<Weak<RedactorState>>> = RwLock::new(Vec::new());

/// Number of texts that were replaced as a whole, for `/metrics`.
pub(crate) static WITHHELD_TEXTS: LazyLock<Counter> = LazyLock::new(Counter::default);

/// Redacts the values of all secrets that this process has loaded. Costs nothing without secrets.
pub fn redact(text: &str) -> Cow<'_, str> {
    if text.is_empty() {
        return Cow::Borrowed(text);
    }
    let redactors = PROCESS_REDACTORS.read();
    let mut redacted = Cow::Borrowed(text);
    for state in redactors.iter().filter_map(Weak::upgrade) {
        if let Cow::Owned(changed) = state.redact(&redacted) {
            redacted = Cow::Owned(changed);
        }
    }
    redacted
}

/// Redacts all texts of `value`, the names of its fields included.
pub fn redact_json(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(redact(&text).into_owned()),
        Value::Array(items) => items.into_iter().map(redact_json).collect(),
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .map(|(name, value)| (redact(&name).into_owned(), redact_json(value)))
                .collect(),
        ),
        // A number may be a value, too: a short one is refused as a secret.
        Value::Number(number) => match redact(&number.to_string()) {
            Cow::Borrowed(_) => Value::Number(number),
            Cow::Owned(text) => Value::String(text),
        },
        Value::Null | Value::Bool(_) => value,
    }
}

/// The values that one set of secrets removes from texts. Clones share the values.
#[derive(Clone, Default)]
pub(super) struct Redactor(Arc<RedactorState>);

#[derive(Default)]
struct RedactorState {
    /// Values of the secrets file, of its current and its previous content.
    secrets: RwLock<Option<Arc<Needles>>>,
    /// Values obtained at run time, such as access tokens, in groups by their origin: a new value
    /// costs the preparation of its group, and not of all values.
    tokens: [RwLock<TokenNeedles>; TOKEN_GROUPS],
}

#[derive(Default)]
struct TokenNeedles {
    /// Origins and values, the newest last.
    values: VecDeque<(String, SecretValue)>,
    needles: Option<Arc<Needles>>,
}

impl Redactor {
    /// Values that are kept of one origin: a check may still run with the one before the newest.
    const MAX_VALUES_PER_ORIGIN: usize = 2;
    /// Values that are kept in one group.
    const MAX_TOKENS_PER_GROUP: usize = 128;

    /// Creates a redactor that [`redact`] uses as long as a clone exists.
    pub(super) fn registered() -> Self {
        let redactor = Self::default();
        let mut all = PROCESS_REDACTORS.write();
        all.retain(|known| known.strong_count() > 0);
        all.push(Arc::downgrade(&redactor.0));
        redactor
    }

    /// Replaces the values of the secrets file.
    pub(super) fn set_secrets<'v>(&self, values: impl Iterator<Item = &'v SecretValue>) {
        let needles = Needles::build(values).map(Arc::new);
        report_unsearchable(needles.as_deref());
        *self.0.secrets.write() = needles;
    }

    /// Adds a value obtained at run time. Of each `origin` the latest values are kept.
    pub(super) fn add_token(&self, origin: &str, value: SecretValue) {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(origin);
        let group = usize::try_from(hash % TOKEN_GROUPS as u64).unwrap_or_default();
        let mut tokens = self.0.tokens[group].write();
        let of_origin = |(known, _): &&(String, SecretValue)| known == origin;
        if tokens.values.iter().filter(of_origin).count() >= Self::MAX_VALUES_PER_ORIGIN
            && let Some(oldest) = tokens.values.iter().position(|(known, _)| known == origin)
        {
            tokens.values.remove(oldest);
        }
        if tokens.values.len() >= Self::MAX_TOKENS_PER_GROUP {
            tokens.values.pop_front();
        }
        tokens.values.push_back((origin.to_owned(), value));
        let needles = Needles::build(tokens.values.iter().map(|(_, value)| value)).map(Arc::new);
        tokens.needles.clone_from(&needles);
        // A log line is redacted, which locks the groups.
        drop(tokens);
        report_unsearchable(needles.as_deref());
    }
}

impl RedactorState {
    fn redact<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let secrets = self.secrets.read().clone();
        let tokens = self.tokens.iter().filter_map(|group| group.read().needles.clone());
        let mut redacted = Cow::Borrowed(text);
        for needles in secrets.into_iter().chain(tokens) {
            let Some(ranges) = needles.find_ranges(&redacted) else { return Cow::Owned(withhold(text)) };
            if !ranges.is_empty() {
                redacted = Cow::Owned(replace_ranges(&redacted, ranges));
            }
        }
        redacted
    }
}

/// The searched forms of all values.
struct Needles {
    /// Absent if it cannot be built. No text may be published then.
    automaton: Option<AhoCorasick>,
    forms: Vec<Form>,
}

impl Needles {
    /// Returns `None` without values.
    fn build<'v>(values: impl Iterator<Item = &'v SecretValue>) -> Option<Self> {
        Self::build_with(values, |forms| {
            AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                // The default for few values is a table with a row for each byte of each form, which
                // takes megabytes for a key or a token.
                .kind(Some(AhoCorasickKind::ContiguousNFA))
                .build(forms.iter().map(|form| form.text.as_bytes()))
        })
    }

    /// As [`build`](Self::build), with an automaton from `build_automaton`.
    fn build_with<'v, E>(
        values: impl Iterator<Item = &'v SecretValue>,
        build_automaton: impl FnOnce(&[Form]) -> Result<AhoCorasick, E>,
    ) -> Option<Self> {
        let mut forms: Vec<Form> =
            values.flat_map(|value| forms::forms_of_value(value.expose_text())).collect();
        forms.sort_by(|one, other| one.text.cmp(&other.text));
        forms.dedup_by(|one, other| one.text == other.text);
        if forms.is_empty() {
            return None;
        }
        Some(Self { automaton: build_automaton(&forms).ok(), forms })
    }

    /// Ranges of `text` that contain a form of a value, in any order; `None` if that is unknown.
    fn find_ranges(&self, text: &str) -> Option<Vec<Range<usize>>> {
        let automaton = self.automaton.as_ref()?;
        let mut ranges = Vec::new();
        for found in automaton.find_iter(text) {
            let range = found.range();
            ranges.push(match self.forms[found.pattern().as_usize()].is_base64 {
                true => forms::extend_base64(text, range),
                false => range,
            });
        }
        // Encoded twice is the most that a redirect to a URL in a query makes.
        let mut decoded = forms::PercentDecoded::identity(text);
        for _ in 0..2 {
            let Some(next) = decoded.decode_again() else { break };
            decoded = next;
            for found in automaton.find_iter(&decoded.bytes) {
                ranges.push(decoded.source_range(found.range()));
            }
        }
        Some(ranges)
    }
}

/// Logs once that no text can be published.
fn report_unsearchable(needles: Option<&Needles>) {
    static REPORTED: Once = Once::new();
    if needles.is_some_and(|needles| needles.automaton.is_none()) {
        REPORTED.call_once(|| {
            error!("secrets cannot be searched for, so all texts of this process are withheld")
        });
    }
}

/// Replaces a whole text, except for the end of its line.
fn withhold(text: &str) -> String {
    WITHHELD_TEXTS.inc();
    format!("{WITHHELD_TEXT}{}", if text.ends_with('\n') { "\n" } else { "" })
}

/// `text` with a placeholder for each range. Ranges are extended to whole characters.
fn replace_ranges(text: &str, mut ranges: Vec<Range<usize>>) -> String {
    ranges.sort_by_key(|range| range.start);
    let mut redacted = String::with_capacity(text.len());
    let mut copied = 0;
    for range in ranges {
        let start = (0..=range.start).rev().find(|index| text.is_char_boundary(*index)).unwrap_or(0);
        let end = (range.end..=text.len()).find(|index| text.is_char_boundary(*index)).unwrap_or(text.len());
        if end <= copied {
            continue;
        }
        // Overlapping ranges share one placeholder.
        if start >= copied {
            redacted.push_str(&text[copied..start]);
            redacted.push_str(PLACEHOLDER);
        }
        copied = end;
    }
    redacted.push_str(&text[copied..]);
    redacted
}

#[cfg(test)]
mod tests;
