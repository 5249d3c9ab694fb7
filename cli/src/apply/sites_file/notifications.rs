//! Channels and routes of the sites file.

use std::{collections::BTreeMap, ops::Deref};

use picket_proto::{
    channel_definition::{ChannelDefinition, ChannelFields},
    route::{RouteDefinition, RouteFields, name_routes, refuse_taken_name},
    validation::sanitize_text,
};
use serde_saphyr::Spanned;

use super::explain::FieldLines;
use crate::channel::validate_settings;

/// The channels of the file. Refusals are added with their lines.
pub(super) fn decode_channels(
    channels: BTreeMap<String, Spanned<ChannelFields>>,
    lines: &impl Deref<Target = FieldLines>,
    refusals: &mut Vec<(u64, String)>,
) -> Vec<ChannelDefinition> {
    let mut decoded = Vec::new();
    for (name, entry) in channels {
        let line = entry.referenced.line();
        let channel = entry.value.into_definition(name.clone());
        let checked = channel.and_then(|channel| validate_settings(&channel).map(|()| channel));
        match checked {
            Ok(channel) => decoded.push(channel),
            Err(why) => {
                let line = lines.find_line("channels", &name, &why.field).unwrap_or(line);
                refusals.push((line, format!(" (channel {}): {why}", sanitize_text(&name, 80))));
            }
        }
    }
    decoded
}

/// The routes of the file, in their order. Refusals are added with their lines.
pub(super) fn decode_routes(
    routes: Vec<Spanned<RouteFields>>,
    lines: &impl Deref<Target = FieldLines>,
    refusals: &mut Vec<(u64, String)>,
) -> Vec<RouteDefinition> {
    let mut decoded: Vec<RouteDefinition> = Vec::new();
    for (index, entry) in routes.into_iter().enumerate() {
        let line = entry.referenced.line();
        let position = i64::try_from(index).unwrap_or(i64::MAX);
        let route =
            entry.value.into_definition(position).and_then(|route| refuse_taken_name(route, &decoded));
        match route {
            Ok(route) => decoded.push(route),
            Err(why) => {
                let line = lines.find_line("routes", &index.to_string(), &why.field).unwrap_or(line);
                refusals.push((line, format!(" (routes): {why}")));
            }
        }
    }
    name_routes(&mut decoded, []);
    decoded
}

#[cfg(test)]
mod tests {
    use picket_proto::{notification_plan::DesiredNotifications, site::IntervalRange};

    use super::super::{parse_sites_file, render_sites_file};

    fn parse(text: &str) -> Result<DesiredNotifications, Vec<String>> {
        parse_sites_file("sites.yaml", text, IntervalRange::default()).map(|wanted| wanted.notifications)
    }

    const FILE: &str = "\
channels:
  ops: {kind: slack, url: {secret: slack-ops}}
  desk:
    kind: email
    host: mail.example.com
    port: 465
    to: [desk@example.com]
    from: picket@example.com
    pace: 5s
routes:
  - tags: [shop]
    channels: [ops, desk]
    remind: never
    escalate: [{after: 15m, channels: [desk]}]
  - {name: rest, channels: [ops], fallback: true}
";

    #[test]
    fn channels_and_routes_parse_and_an_exported_file_reads_back_equal() {
        let wanted = parse(FILE).unwrap();

        let (channels, routes) = (wanted.channels.clone().unwrap(), wanted.routes.clone().unwrap());
        assert_eq!(channels[0].settings["port"], 465);
        assert_eq!(channels[1].settings["url"], serde_json::json!({"secret": "slack-ops"}));
        assert_eq!((routes[0].name.as_str(), routes[1].position), ("shop-to-ops-desk", 1));
        let text = render_sites_file(&[], &[], &channels, &routes).unwrap();
        assert_eq!(parse(&text).unwrap(), wanted, "{text}");
    }

    #[test]
    fn a_file_without_these_keys_leaves_channels_and_routes_alone() {
        assert_eq!(parse("sites: []\n").unwrap(), DesiredNotifications::default());
        assert_eq!(parse("routes: []\n").unwrap().routes, Some(Vec::new()));
    }

    #[test]
    fn every_error_names_its_line_and_no_credential_is_repeated() {
        let refusals = parse(
            "channels:\n  ops:\n    kind: slak\n  bot:\n    kind: telegram\n    token: MARK\n    chat_id: 7\n  A: {kind: slack}\n\
             routes:\n  - channels: [ops]\n    wait: soon\n  - {channels: [ops], name: a}\n  - {channels: [ops], name: a}\n",
        )
        .unwrap_err();

        let expected = [
            ("line 3", "did you mean 'slack'"),
            ("line 6", "PICKET_SECRETS_FILE"),
            ("line 8", "(channel A): name: 'A'"),
            ("line 11", "such as 15s"),
            ("line 13", "no other route"),
        ];
        assert_eq!(refusals.len(), expected.len(), "{refusals:#?}");
        for (refusal, (line, what)) in refusals.iter().zip(expected) {
            assert!(
                refusal.contains(line) && refusal.contains(what) && !refusal.contains("MARK"),
                "{refusal}"
            );
        }
        for text in [
            "channels:\n  bot: {kind: telegram, token: MARK, pace: [MARK]}\n",
            "channels:\n  bot: {kind: [MARK], token: MARK}\n",
            "channels:\n  bot: MARK\n",
            "channels: MARK\n",
        ] {
            let refusals = parse(text).unwrap_err();
            assert!(refusals[0].contains("sites.yaml") && !refusals[0].contains("MARK"), "{refusals:?}");
        }
        let unknown = parse("routes:\n  - {channels: [ops], remindd: 1h}\n").unwrap_err();
        assert!(unknown[0].contains("line 2") && unknown[0].contains("did you mean 'remind'"), "{unknown:?}");
    }
}
