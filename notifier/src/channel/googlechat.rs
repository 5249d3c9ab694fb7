//! Google Chat: a webhook with a card, in which mentions have no effect.

use picket_proto::{ValidationError, http_options::SecretRef};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    receiver::{HttpRequest, Keys, Receiver, Unsendable},
    settings::check_secret,
};
use crate::{
    message::Message,
    text::{Html, Layout, Plain, title_line},
};

/// Bytes of a message with its cards.
const MAX_BYTES: usize = 32_000;
/// Bytes of the card's text.
const MAX_TEXT_BYTES: usize = 12_000;

/// Settings of a space in Google Chat.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GooglechatSettings {
    /// The webhook.
    url: SecretRef,
}

fn render_body(message: &Message, max_text: usize) -> Value {
    let title = title_line(message);
    let text = Layout::new(message, &Html).without_link().fit_body(max_text, str::len).replace('\n', "<br>");
    let mut widgets = vec![json!({ "textParagraph": { "text": text } })];
    if let Some(link) = &message.link {
        let button = json!({ "text": "Open in Picket", "onClick": { "openLink": { "url": link } } });
        widgets.push(json!({ "buttonList": { "buttons": [button] } }));
    }
    let body_start = Layout::new(message, &Plain).fit_body(400, str::len);
    json!({
        "fallbackText": format!("{title}\n{body_start}"),
        "cardsV2": [{
            "cardId": message.id,
            "card": { "header": { "title": title }, "sections": [{ "widgets": widgets }] },
        }],
    })
}

impl Receiver for GooglechatSettings {
    fn check(&self) -> Result<(), ValidationError> {
        check_secret("url", &self.url)
    }

    fn render(&self, message: &Message, keys: &Keys<'_>) -> Result<Vec<HttpRequest>, Unsendable> {
        let mut url = keys.secret_url(&self.url)?;
        let key = message.thread.unwrap_or(message.id).to_string();
        url.query_pairs_mut().append_pair("messageReplyOption", "REPLY_MESSAGE_FALLBACK_TO_NEW_THREAD");
        let bodies = [MAX_TEXT_BYTES, MAX_TEXT_BYTES / 2, 1_000].map(|size| render_body(message, size));
        let fitting = bodies.into_iter().find(|body| body.to_string().len() <= MAX_BYTES);
        let mut body = fitting.ok_or_else(|| Unsendable::Refused("the message is too long".to_owned()))?;
        body["thread"] = json!({ "threadKey": key });
        Ok(vec![HttpRequest::post_json(url, &body)])
    }
}

#[cfg(test)]
mod tests {
    use picket_proto::ChannelKind;

    use super::*;
    use crate::channel::tests::{Rendered, hostile_messages, long_messages};

    #[test]
    fn every_message_is_a_card_below_32_000_bytes_without_markup_of_others() {
        for message in hostile_messages().into_iter().chain(long_messages()) {
            let settings = json!({ "url": { "secret": "googlechat" } });
            let rendered = Rendered::of(ChannelKind::Googlechat, &settings, &message);
            assert!(rendered.body.len() <= MAX_BYTES);
            let card = &rendered.json()["cardsV2"][0]["card"];
            let text = card["sections"][0]["widgets"][0]["textParagraph"]["text"].as_str().unwrap();
            assert!(!text.is_empty() && !text.contains("<!channel>") && !text.contains("<script"), "{text}");
        }
    }
}
