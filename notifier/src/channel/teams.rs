//! Microsoft Teams: a workflow that posts an Adaptive Card 1.4.
//!
//! Texts are in text runs, which know no markup, so that nothing has to be escaped. A workflow
//! answers 202 before it posts: a failure of the workflow itself is seen in Teams alone.

use picket_proto::{ValidationError, http_options::SecretRef};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    receiver::{HttpRequest, Keys, Receiver, Unsendable},
    settings::check_secret,
};
use crate::{
    message::{Message, Severity},
    text::{Layout, Plain, title_line},
};

/// Bytes of a message; above it the workflow fails after its answer.
const MAX_BYTES: usize = 28 << 10;
/// Bytes for the text of the card; the rest is for the JSON around it.
const MAX_TEXT_BYTES: usize = 12 << 10;

/// Settings of a channel in Teams.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TeamsSettings {
    /// The workflow.
    url: SecretRef,
    /// Form that the workflow reads.
    #[serde(default)]
    format: CardFormat,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum CardFormat {
    /// A message with the card as an attachment, as Microsoft's template reads it.
    #[default]
    Message,
    /// The card alone.
    Card,
}

impl TeamsSettings {
    fn render_body(&self, message: &Message, max_text: usize) -> Value {
        let color = match message.severity {
            Severity::Critical => "Attention",
            Severity::Warning => "Warning",
            Severity::Info => "Default",
            Severity::Resolved => "Good",
        };
        let run = |text: &str, is_title: bool| {
            let mut run = json!({ "type": "TextRun", "text": text });
            if is_title {
                (run["weight"], run["size"], run["color"]) = (json!("Bolder"), json!("Medium"), json!(color));
            }
            json!({ "type": "RichTextBlock", "inlines": [run] })
        };
        let text = Layout::new(message, &Plain).without_link().fit_body(max_text, str::len);
        let mut body = vec![run(&title_line(message), true)];
        body.extend(text.lines().map(|line| run(line, false)));
        let mut card = json!({
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
            "version": "1.4",
            "body": body,
            "msteams": { "width": "Full" },
        });
        if let Some(link) = &message.link {
            card["actions"] = json!([{ "type": "Action.OpenUrl", "title": "Open in Picket", "url": link }]);
        }
        match self.format {
            CardFormat::Card => card,
            CardFormat::Message => json!({
                "type": "message",
                "attachments": [{
                    "contentType": "application/vnd.microsoft.card.adaptive",
                    "contentUrl": null,
                    "content": card,
                }],
            }),
        }
    }
}

impl Receiver for TeamsSettings {
    fn check(&self) -> Result<(), ValidationError> {
        check_secret("url", &self.url)
    }

    fn render(&self, message: &Message, keys: &Keys<'_>) -> Result<Vec<HttpRequest>, Unsendable> {
        let url = keys.secret_url(&self.url)?;
        let sizes = [MAX_TEXT_BYTES, MAX_TEXT_BYTES / 2, MAX_TEXT_BYTES / 4, 1_000, 0];
        let bodies = sizes.iter().map(|size| self.render_body(message, *size));
        let fitting = bodies.into_iter().find(|body| body.to_string().len() <= MAX_BYTES);
        let body = fitting.ok_or_else(|| Unsendable::Refused("the message is too long".to_owned()))?;
        Ok(vec![HttpRequest::post_json(url, &body)])
    }
}

#[cfg(test)]
mod tests {
    use picket_proto::ChannelKind;

    use super::*;
    use crate::channel::tests::{Rendered, hostile_messages, long_messages};

    #[test]
    fn every_message_is_a_card_of_text_runs_below_28_kib() {
        let settings = json!({ "url": { "secret": "teams" } });
        for message in hostile_messages().into_iter().chain(long_messages()) {
            let rendered = Rendered::of(ChannelKind::Teams, &settings, &message);
            assert!(rendered.body.len() <= MAX_BYTES, "{}", rendered.body.len());
            let card = &rendered.json()["attachments"][0]["content"];
            assert_eq!((&card["type"], &card["version"]), (&json!("AdaptiveCard"), &json!("1.4")));
            for block in card["body"].as_array().unwrap() {
                assert_eq!(block["type"], "RichTextBlock");
                assert_eq!(block["inlines"][0]["type"], "TextRun");
            }
        }
    }

    #[test]
    fn a_workflow_that_wants_the_card_alone_gets_it() {
        let settings = json!({ "url": { "secret": "teams" }, "format": "card" });
        let body = Rendered::of(ChannelKind::Teams, &settings, &crate::samples::down()).json();

        assert_eq!(body["type"], "AdaptiveCard");
    }
}
