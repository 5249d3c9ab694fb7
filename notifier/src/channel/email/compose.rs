//! The message as mail: text and HTML parts, and the table of a digest.

use std::time::{Duration, SystemTime};

use lettre::message::{
    Attachment, Message as Mail, MultiPart, SinglePart,
    header::{ContentType, HeaderName, HeaderValue},
};
use picket_proto::{Timestamp, validation::sanitize_text};
use uuid::Uuid;

use super::settings::{EmailSettings, Envelope};
use crate::{
    message::{Message, Severity},
    template::{Markup, render_or_else},
    text::{Html, Layout, Plain, title_line},
};

/// Maximum size of each of the built-in parts.
const MAX_PART_BYTES: usize = 256 << 10;
const MAX_SUBJECT_BYTES: usize = 300;
const CSV_FILE_NAME: &str = "notification.csv";

/// A message in the form of RFC 5322.
pub(super) struct ComposedMail {
    pub(super) bytes: Vec<u8>,
    /// Reason why a template was not used.
    pub(super) template_note: Option<String>,
}

/// Composes the mail for all recipients.
///
/// # Errors
/// If the library refuses a header.
pub(super) fn compose_mail(
    settings: &EmailSettings,
    envelope: &Envelope,
    message: &Message,
) -> Result<ComposedMail, String> {
    let subject = render_or_else(settings.title.as_deref(), "title", Markup::Line, message, title_line);
    let text = render_or_else(settings.body.as_deref(), "body", Markup::Plain, message, lay_out_text);
    // The template of the text says what is to be said; the built-in HTML would say something else.
    let is_text_only = settings.body.is_some() && settings.html_body.is_none() && text.note.is_none();
    let html = (!is_text_only).then(|| {
        render_or_else(settings.html_body.as_deref(), "html_body", Markup::Html, message, lay_out_html)
    });
    let notes: Vec<String> = [Some(&subject), Some(&text), html.as_ref()]
        .into_iter()
        .flatten()
        .filter_map(|rendering| rendering.note.clone())
        .collect();

    let domain = envelope.from.email.domain();
    let header = |name, value: &str| HeaderValue::new(HeaderName::new_from_ascii_str(name), value.to_owned());
    let mut builder = Mail::builder()
        .message_id(Some(message_id(message.id, domain)))
        .date(system_time(message.composed_at))
        .from(envelope.from.clone())
        .subject(sanitize_text(&subject.text, MAX_SUBJECT_BYTES))
        // No answers by machines (RFC 3834), such as notes of absence; the second is Exchange's.
        .raw_header(header("Auto-Submitted", "auto-generated"))
        .raw_header(header("X-Auto-Response-Suppress", "All"));
    for recipient in &envelope.to {
        builder = builder.to(recipient.clone());
    }
    if let Some(reply_to) = &envelope.reply_to {
        builder = builder.reply_to(reply_to.clone());
    }
    if let Some(first) = message.thread.filter(|first| *first != message.id) {
        let first = message_id(first, domain);
        builder = builder.in_reply_to(first.clone()).references(first);
    }
    let plain = SinglePart::plain(text.text);
    let parts = match html {
        Some(html) => MultiPart::alternative().singlepart(plain).singlepart(SinglePart::html(html.text)),
        None => MultiPart::alternative().singlepart(plain),
    };
    let built = match &message.csv {
        None => builder.multipart(parts),
        Some(csv) => builder.multipart(MultiPart::mixed().multipart(parts).singlepart(attach_csv(csv)?)),
    };
    Ok(ComposedMail {
        bytes: built.map_err(|why| why.to_string())?.formatted(),
        template_note: (!notes.is_empty()).then(|| notes.join("; ")),
    })
}

/// Identifier of a mail: the same at each attempt.
fn message_id(id: Uuid, domain: &str) -> String {
    format!("<{id}@{domain}>")
}

fn system_time(at: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(at.as_micros().max(0).unsigned_abs())
}

fn attach_csv(csv: &str) -> Result<SinglePart, String> {
    let kind =
        ContentType::parse("text/csv; charset=utf-8; header=present").map_err(|why| why.to_string())?;
    Ok(Attachment::new(CSV_FILE_NAME.to_owned()).body(csv.to_owned(), kind))
}

fn lay_out_text(message: &Message) -> String {
    Layout::new(message, &Plain).fit_text(MAX_PART_BYTES, str::len, &Plain)
}

/// The built-in layout behind a bar in the colour of the verdict. No styles but inline ones: mail
/// readers drop others.
fn lay_out_html(message: &Message) -> String {
    let colour = match message.severity {
        Severity::Critical => "#c0392b",
        Severity::Warning => "#d68910",
        Severity::Resolved => "#1e8449",
        Severity::Info => "#566573",
    };
    let text = Layout::new(message, &Html).fit_text(MAX_PART_BYTES, str::len, &Html);
    let lines = text.replace('\n', "<br>\n");
    format!(
        "<!DOCTYPE html>\n<html><head><meta charset=\"utf-8\"></head><body>\n<div style=\"border-left: 4px solid \
         {colour}; padding-left: 12px; font-family: sans-serif; line-height: 1.5\">\n{lines}\n</div>\n</body></html>\n"
    )
}
