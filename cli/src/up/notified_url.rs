//! `picket up --notify-webhook URL`: a channel for the URL, with a route of all sites.

use std::path::Path;

use picket_local::{OwnSecret, secrets_path, write_own_secret};
use picket_notifier::channel::ChannelSettings;
use picket_proto::{
    ChannelKind, ValidationError,
    channel_definition::ChannelDefinition,
    channel_setting::{SETTINGS_FIELD, find_service_of_url},
    nested_object::HIDDEN_VALUE,
    route::RouteFields,
};
use picket_runtime::SecretValue;
use picket_store::{
    Store, channels,
    routes::{self, RoutePlace},
};
use serde_json::{Value, json};
use url::Url;

use crate::{channel::format_setting, error::Error};

/// Name of the option.
const OPTION: &str = "--notify-webhook";

/// A URL to be told of every incident.
#[derive(Debug)]
pub(super) struct NotifiedUrl {
    /// The channel, named after its kind.
    channel: ChannelDefinition,
    /// The credential in the URL, if there is any.
    secret: Option<OwnSecret>,
}

impl NotifiedUrl {
    /// The channel for a URL: of the kind of its service, or a webhook.
    ///
    /// # Errors
    /// If a channel cannot have the URL.
    pub(super) fn parse(text: &str) -> Result<Self, ValidationError> {
        let url = Url::parse(text.trim()).ok();
        let service = url.and_then(|url| Some((find_service_of_url(&url)?, url.host_str()?.to_owned(), url)));
        let Some((kind, host, url)) = service else {
            let mut channel = ChannelDefinition::new(ChannelKind::Webhook.as_str(), ChannelKind::Webhook);
            channel.settings.insert("url".to_owned(), text.trim().into());
            return Self::new(channel, None);
        };
        let mut channel = ChannelDefinition::new(kind.as_str(), kind);
        let name = format!("notify-{kind}");
        let reference = json!({"secret": name});
        let value = match kind {
            ChannelKind::Telegram => {
                let (token, chat) = split_telegram_url(&url).ok_or_else(|| {
                    let allowed = "of Telegram a URL with the number of the chat, as \
                         https://api.telegram.org/botTOKEN/sendMessage?chat_id=NUMBER";
                    ValidationError::new(OPTION, HIDDEN_VALUE, allowed)
                })?;
                channel.settings.insert("token".to_owned(), reference);
                channel.settings.insert("chat_id".to_owned(), chat);
                token
            }
            _ => {
                channel.settings.insert("url".to_owned(), reference);
                url.to_string()
            }
        };
        let host = url.port().map_or(host.clone(), |port| format!("{host}:{port}"));
        Self::new(channel, Some(OwnSecret { name, value: SecretValue::new(value), host }))
    }

    fn new(channel: ChannelDefinition, secret: Option<OwnSecret>) -> Result<Self, ValidationError> {
        ChannelSettings::parse(channel.kind, &channel.settings.clone().into()).map_err(|why| {
            let field = why.field.replace(&format!("{SETTINGS_FIELD}.url"), OPTION);
            ValidationError { field, ..why }
        })?;
        Ok(Self { channel, secret })
    }

    /// Refuses a credential if the secrets are in a file of the user.
    ///
    /// # Errors
    /// [`Error::Usage`] with the entry and the commands for the same result.
    pub(super) fn refuse_foreign_file(&self, file: &Path) -> Result<(), Error> {
        let Some(secret) = &self.secret else { return Ok(()) };
        let (name, kind) = (&self.channel.name, self.channel.kind);
        let settings: String = self
            .channel
            .settings
            .iter()
            .map(|(name, value)| format!(" --set {name}={}", format_setting(value)))
            .collect();
        Err(Error::Usage(format!(
            "{OPTION}: the URL is a credential of {kind}, and PICKET_SECRETS_FILE names a file of yours, which is not \
             changed. Add to {}: [secret.{}] with value = '…' and hosts = ['{}']; then, while it runs: picket channel \
             add {name} --kind {kind}{settings}; picket route add --channel {name}",
            file.display(),
            secret.name,
            secret.host,
        )))
    }

    /// Writes the credential into the secrets file of `picket up`. Returns a line after a change.
    pub(super) fn write_secret(&self, data_dir: &Path) -> Result<Option<String>, Error> {
        let Some(secret) = &self.secret else { return Ok(None) };
        let path = secrets_path(data_dir);
        match write_own_secret(data_dir, secret) {
            Ok(is_changed) => {
                Ok(is_changed.then(|| format!("secret {} was written to {}", secret.name, path.display())))
            }
            Err(why) => Err(Error::Usage(format!("could not write {}: {why}", path.display()))),
        }
    }

    /// Adds the channel with a route of all sites, or changes the URL of an earlier channel. Returns lines
    /// for the user.
    ///
    /// # Errors
    /// If a channel of another kind has the name.
    pub(super) async fn add_channel(&self, store: &Store) -> Result<Vec<String>, Error> {
        let (name, kind) = (&self.channel.name, self.channel.kind);
        let mut notes = Vec::new();
        match channels::find_channel(store, name).await? {
            None => {
                channels::add_channel(store, &self.channel).await?;
                notes.push(format!("added channel {name} ({kind})"));
            }
            Some(stored) => {
                let before = stored.definition?;
                if before.kind != kind {
                    return Err(Error::Usage(format!(
                        "{OPTION}: the channel '{name}' is of kind {}, and is not changed; remove it, or add a \
                         channel of another name: picket channel add",
                        before.kind
                    )));
                }
                let mut after = before.clone();
                after.settings.extend(self.channel.settings.clone());
                if after != before {
                    if !channels::update_channel(store, &after, Some(&stored.version)).await? {
                        return Err(Error::Usage(format!(
                            "channel {name} was changed by someone else meanwhile"
                        )));
                    }
                    notes
                        .push(format!("changed channel {name}: {}", describe_change(&before, &self.channel)));
                }
                if !after.enabled {
                    notes.push(format!("channel {name} is paused; next: picket channel resume {name}"));
                }
            }
        }
        notes.push(self.add_route(store).await?);
        Ok(notes)
    }

    async fn add_route(&self, store: &Store) -> Result<String, Error> {
        let name = &self.channel.name;
        let routes = routes::list_routes(store).await?;
        let mut definitions = routes.iter().filter_map(|route| route.definition.as_ref().ok());
        if let Some(route) = definitions.find(|route| route.named_channels().any(|named| named == name)) {
            return Ok(format!(
                "channel {name} is told what its routes say, such as {} ({}); try it with: picket channel test {name}",
                route.name,
                route.describe_sites()
            ));
        }
        let fields =
            RouteFields { name: Some(name.clone()), channels: vec![name.clone()], ..RouteFields::default() };
        routes::add_route(store, &fields.into_definition(0)?, RoutePlace::Last).await?;
        Ok(format!("channel {name} is told of every incident; try it with: picket channel test {name}"))
    }
}

/// The replaced settings with their earlier values.
fn describe_change(before: &ChannelDefinition, wanted: &ChannelDefinition) -> String {
    let changes = wanted.settings.iter().filter_map(|(name, value)| {
        let earlier = before.settings.get(name);
        let earlier_text = earlier.map_or_else(|| "nothing".to_owned(), format_setting);
        (earlier != Some(value))
            .then(|| format!("{name} was {earlier_text}, and is {}", format_setting(value)))
    });
    changes.collect::<Vec<_>>().join("; ")
}

/// Token and chat of `https://api.telegram.org/botTOKEN/sendMessage?chat_id=CHAT`.
fn split_telegram_url(url: &Url) -> Option<(String, Value)> {
    let token = url.path_segments()?.next()?.strip_prefix("bot").filter(|token| !token.is_empty())?;
    let (_, chat) = url.query_pairs().find(|(name, _)| name == "chat_id")?;
    let chat = chat.parse::<i64>().map_or_else(|_| Value::from(chat.as_ref()), Value::from);
    Some((token.to_owned(), chat))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_of_a_service_becomes_a_channel_of_its_kind_with_a_secret() {
        let slack = NotifiedUrl::parse("https://hooks.slack.com/services/T/B/MARK").unwrap();
        assert_eq!(slack.channel.kind, ChannelKind::Slack);
        assert_eq!(Value::from(slack.channel.settings.clone()), json!({"url": {"secret": "notify-slack"}}));
        let secret = slack.secret.as_ref().unwrap();
        assert_eq!(
            (secret.value.expose_text(), secret.host.as_str()),
            ("https://hooks.slack.com/services/T/B/MARK", "hooks.slack.com")
        );

        let telegram =
            NotifiedUrl::parse("https://api.telegram.org/bot1:MARK/sendMessage?chat_id=-100&text=x").unwrap();
        assert_eq!(
            Value::from(telegram.channel.settings.clone()),
            json!({"token": {"secret": "notify-telegram"}, "chat_id": -100})
        );
        assert_eq!(telegram.secret.unwrap().value.expose_text(), "1:MARK");
        for (url, kind) in [
            ("https://discord.com/api/webhooks/1/MARK", "discord"),
            ("https://a.webhook.office.com/webhookb2/MARK", "teams"),
            ("https://chat.googleapis.com/v1/spaces/A/messages?key=MARK", "googlechat"),
        ] {
            let url = NotifiedUrl::parse(url).unwrap();
            assert_eq!((url.channel.name.as_str(), url.secret.is_some()), (kind, true));
        }
        let refusal =
            slack.refuse_foreign_file(Path::new("/etc/picket/secrets.toml")).unwrap_err().to_string();
        assert!(refusal.contains("[secret.notify-slack]") && !refusal.contains("MARK"), "{refusal}");
        assert!(refusal.contains("--kind slack --set url=secret:notify-slack"), "{refusal}");
    }

    #[test]
    fn another_url_becomes_a_webhook_and_a_wrong_one_is_refused_by_the_name_of_the_option() {
        let webhook = NotifiedUrl::parse("https://hooks.example.com/picket").unwrap();
        assert_eq!((webhook.channel.name.as_str(), webhook.secret.is_some()), ("webhook", false));
        webhook.refuse_foreign_file(Path::new("/etc/picket/secrets.toml")).unwrap();

        for wrong in [
            "hooks.example.com",
            "ftp://hooks.example.com/",
            "https://me:MARK@hooks.example.com/",
            "https://api.telegram.org/bot1:MARK/sendMessage",
        ] {
            let refusal = NotifiedUrl::parse(wrong).unwrap_err();
            assert_eq!(refusal.field, "--notify-webhook", "{refusal}");
            assert!(!refusal.to_string().contains("MARK"), "{refusal}");
        }
    }
}
