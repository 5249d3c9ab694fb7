//! The definition of a route: which events are told to which channels.

mod active_hours;
mod names;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use self::{
    active_hours::{ActiveHours, DailySpan, HoursFields, SpanFields},
    names::{name_routes, refuse_taken_name},
};
use crate::{
    RegionName, ValidationError,
    channel_definition::{
        check_duration_range, check_notification_name, format_duration_ms, parse_duration_ms,
    },
    request::check_range,
    site::SiteSpec,
    suggestion::describe_known_names,
};

/// Events of which a route may tell.
pub const ROUTE_EVENTS: [&str; 6] = ["incident", "warning", "certificate", "region", "channel", "ledger"];
/// What may share a message.
pub const ROUTE_GROUPS: [&str; 3] = ["route", "tag", "site"];

/// A route. All that match an event apply, and a channel is told once.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteDefinition {
    /// Name of the route, unique among routes.
    pub name: String,
    /// Place among the routes: of several routes with a channel, the first one's settings hold.
    pub position: i64,
    /// Any of these tags; empty for all sites.
    pub tags: Vec<String>,
    /// All of these tags.
    pub all_tags: Vec<String>,
    /// These sites by id or URL; empty for all.
    pub sites: Vec<String>,
    /// Any of these regions is down; empty for all.
    pub regions: Vec<String>,
    /// Least number of regions that are down.
    pub min_regions: Option<i64>,
    /// Events, from [`ROUTE_EVENTS`].
    pub events: Vec<String>,
    /// Names of the channels to tell.
    pub channels: Vec<String>,
    /// Time to collect further incidents before a message, in milliseconds; absent for 10 s for
    /// people, none for programs.
    pub wait_ms: Option<i64>,
    /// Time for which an incident must last to be told, in milliseconds.
    pub delay_ms: i64,
    /// What shares a message, from [`ROUTE_GROUPS`]; absent for the route for people, the site for
    /// programs.
    pub group_by: Option<String>,
    /// Time to the first reminder, in milliseconds; 0 for none.
    pub remind_ms: i64,
    /// More incidents than this at once are told by digests.
    pub storm_after: i64,
    /// Further channels to tell while nobody acknowledges.
    pub escalate: Vec<EscalationStep>,
    /// Hours in which the route tells; absent for always.
    pub active: Option<ActiveHours>,
    /// True if the route applies only where no other does.
    pub fallback: bool,
    /// False if the route is switched off.
    pub enabled: bool,
}

/// A step of [`RouteDefinition::escalate`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EscalationStep {
    /// Time since the incident opened, in milliseconds.
    pub after_ms: i64,
    /// Names of the channels to tell then.
    pub channels: Vec<String>,
}

/// A route in its serialized form. An absent field has its default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "an object, such as {\"tags\": [\"shop\"], \"channels\": [\"ops\"]}"
)]
pub struct RouteFields {
    /// Name of the route; made from tags and channels if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Any of these tags; all sites if absent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// All of these tags.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub all_tags: Vec<String>,
    /// These sites by id or URL; all sites if absent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sites: Vec<String>,
    /// Any of these regions is down; all regions if absent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<String>,
    /// Least number of regions that are down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_regions: Option<i64>,
    /// Events: `incident` (the default), `warning`, `certificate`, `region`, `channel`, `ledger`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<Vec<String>>,
    /// Names of the channels to tell.
    pub channels: Vec<String>,
    /// Time to collect further incidents before a message, such as `10s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<String>,
    /// Time for which an incident must last to be told, such as `2m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<String>,
    /// What shares a message: `route`, `tag` or `site`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_by: Option<String>,
    /// Time to the first reminder, such as `1h` (the default), or `never`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remind: Option<String>,
    /// More incidents than this at once are told by digests; 20 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storm_after: Option<i64>,
    /// Further channels to tell while nobody acknowledges.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub escalate: Vec<EscalationFields>,
    /// Hours in which the route tells; always if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<HoursFields>,
    /// True if the route applies only where no other does.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub fallback: bool,
    /// False if the route is switched off; true by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

/// A step of [`RouteFields::escalate`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "an object, as {\"after\": \"15m\", \"channels\": [\"phone\"]}")]
pub struct EscalationFields {
    /// Time since the incident opened, such as `15m`.
    pub after: String,
    /// Names of the channels to tell then.
    pub channels: Vec<String>,
}

impl RouteFields {
    /// The route that these fields define. Without a name it has an empty one, which
    /// [`name_routes`] replaces.
    ///
    /// # Errors
    /// Names the first field that cannot be used.
    pub fn into_definition(self, position: i64) -> Result<RouteDefinition, ValidationError> {
        let duration =
            |field: &str, text: Option<String>| text.map(|text| parse_duration_ms(field, &text)).transpose();
        let step = |(index, step): (usize, EscalationFields)| {
            let after_ms = parse_duration_ms(&format!("escalate[{index}].after"), &step.after)?;
            Ok(EscalationStep { after_ms, channels: step.channels })
        };
        let remind_ms = match self.remind.as_deref() {
            Some("never") => 0,
            remind => remind
                .map(|remind| parse_duration_ms("remind", remind).map_err(allow_never))
                .transpose()?
                .unwrap_or(RouteDefinition::DEFAULT_REMIND_MS),
        };
        let definition = RouteDefinition {
            name: self.name.clone().unwrap_or_default(),
            position,
            tags: self.tags,
            all_tags: self.all_tags,
            sites: self.sites,
            regions: self.regions,
            min_regions: self.min_regions,
            events: self.events.unwrap_or_else(|| vec![ROUTE_EVENTS[0].to_owned()]),
            channels: self.channels,
            wait_ms: duration("wait", self.wait)?,
            delay_ms: duration("delay", self.delay)?.unwrap_or(0),
            group_by: self.group_by,
            remind_ms,
            storm_after: self.storm_after.unwrap_or(RouteDefinition::DEFAULT_STORM_AFTER),
            escalate: self.escalate.into_iter().enumerate().map(step).collect::<Result<_, _>>()?,
            active: self.active.map(HoursFields::into_hours).transpose()?,
            fallback: self.fallback,
            enabled: self.enabled.unwrap_or(true),
        };
        if let Some(name) = &self.name {
            check_notification_name("name", name)?;
        }
        definition.validate_body()?;
        Ok(definition)
    }
}

impl RouteDefinition {
    /// Default of [`remind_ms`](Self::remind_ms): an hour.
    pub const DEFAULT_REMIND_MS: i64 = 3_600_000;
    /// Default of [`storm_after`](Self::storm_after).
    pub const DEFAULT_STORM_AFTER: i64 = 20;
    /// Greatest [`position`](Self::position).
    pub const MAX_POSITION: i64 = 1_000_000;
    const MAX_CHANNELS: usize = 50;
    const MAX_STEPS: usize = 10;
    const MAX_ENTRIES: usize = 1_000;
    const HOUR_MS: i64 = 3_600_000;
    const DAY_MS: i64 = 86_400_000;

    /// The fields that differ from their defaults.
    pub fn to_fields(&self) -> RouteFields {
        let step = |step: &EscalationStep| EscalationFields {
            after: format_duration_ms(step.after_ms),
            channels: step.channels.clone(),
        };
        RouteFields {
            name: Some(self.name.clone()),
            tags: self.tags.clone(),
            all_tags: self.all_tags.clone(),
            sites: self.sites.clone(),
            regions: self.regions.clone(),
            min_regions: self.min_regions,
            events: (self.events != [ROUTE_EVENTS[0]]).then(|| self.events.clone()),
            channels: self.channels.clone(),
            wait: self.wait_ms.map(format_duration_ms),
            delay: (self.delay_ms != 0).then(|| format_duration_ms(self.delay_ms)),
            group_by: self.group_by.clone(),
            remind: match self.remind_ms {
                Self::DEFAULT_REMIND_MS => None,
                0 => Some("never".to_owned()),
                remind => Some(format_duration_ms(remind)),
            },
            storm_after: (self.storm_after != Self::DEFAULT_STORM_AFTER).then_some(self.storm_after),
            escalate: self.escalate.iter().map(step).collect(),
            active: self.active.as_ref().map(ActiveHours::to_fields),
            fallback: self.fallback,
            enabled: (!self.enabled).then_some(false),
        }
    }

    /// The sites and conditions of the route, in words.
    pub fn describe_sites(&self) -> String {
        let mut parts = Vec::new();
        if self.fallback {
            parts.push("sites without another route".to_owned());
        }
        for (words, noun, joint) in
            [(&self.tags, "tag", " or "), (&self.all_tags, "all tags", " and "), (&self.sites, "site", ", ")]
        {
            if !words.is_empty() {
                parts.push(format!("{noun} {}", words.join(joint)));
            }
        }
        if !self.regions.is_empty() {
            parts.push(format!("down in {}", self.regions.join(" or ")));
        }
        if let Some(min) = self.min_regions {
            parts.push(format!("down in {min} regions"));
        }
        match parts.is_empty() {
            true => "all sites".to_owned(),
            false => parts.join(", "),
        }
    }

    /// Names of all channels of the route, those of its escalation too.
    pub fn named_channels(&self) -> impl Iterator<Item = &str> {
        self.channels.iter().chain(self.escalate.iter().flat_map(|step| &step.channels)).map(String::as_str)
    }

    /// The column `escalate`.
    pub fn escalate_json(&self) -> Value {
        self.escalate
            .iter()
            .map(|step| json!({"after_ms": step.after_ms, "channels": step.channels}))
            .collect()
    }

    /// Validates every field.
    ///
    /// # Errors
    /// Names the first field that cannot be used.
    pub fn validate(&self) -> Result<(), ValidationError> {
        check_notification_name("name", &self.name)?;
        self.validate_body()
    }

    /// Validates every field but the name.
    fn validate_body(&self) -> Result<(), ValidationError> {
        check_channels("channels", &self.channels)?;
        check_range("position", self.position, 0, Self::MAX_POSITION)?;
        for (field, entries) in [
            ("tags", &self.tags),
            ("all_tags", &self.all_tags),
            ("sites", &self.sites),
            ("regions", &self.regions),
        ] {
            if entries.len() > Self::MAX_ENTRIES {
                let allowed = format!("at most {}", Self::MAX_ENTRIES);
                return Err(ValidationError::new(field, format_args!("{} of them", entries.len()), allowed));
            }
        }
        self.tags.iter().try_for_each(|tag| SiteSpec::check_tag("tags", tag))?;
        self.all_tags.iter().try_for_each(|tag| SiteSpec::check_tag("all_tags", tag))?;
        for region in &self.regions {
            region.parse::<RegionName>().map_err(|why| ValidationError { field: "regions".into(), ..why })?;
        }
        if let Some(min) = self.min_regions {
            check_range("min_regions", min, 1, 100)?;
        }
        self.validate_events()?;
        if let Some(wait) = self.wait_ms {
            check_duration_range("wait", wait, 0, Self::HOUR_MS)?;
        }
        check_duration_range("delay", self.delay_ms, 0, Self::DAY_MS)?;
        if let Some(group) = self.group_by.as_deref().filter(|group| !ROUTE_GROUPS.contains(group)) {
            return Err(ValidationError::new("group_by", group, ROUTE_GROUPS.join(", ")));
        }
        if self.remind_ms != 0 {
            check_duration_range("remind", self.remind_ms, 60_000, 7 * Self::DAY_MS).map_err(allow_never)?;
        }
        check_range("storm_after", self.storm_after, 1, 10_000)?;
        self.validate_escalation()?;
        self.active.as_ref().map_or(Ok(()), ActiveHours::validate)
    }

    fn validate_events(&self) -> Result<(), ValidationError> {
        if self.events.is_empty() {
            let allowed = format!("at least one of {}", ROUTE_EVENTS.join(", "));
            return Err(ValidationError::new("events", "", allowed));
        }
        match self.events.iter().find(|event| !ROUTE_EVENTS.contains(&event.as_str())) {
            Some(event) => {
                let allowed = describe_known_names(event, &ROUTE_EVENTS).replace("field", "event");
                Err(ValidationError::new("events", event, allowed))
            }
            None => Ok(()),
        }
    }

    fn validate_escalation(&self) -> Result<(), ValidationError> {
        if self.escalate.len() > Self::MAX_STEPS {
            let allowed = format!("at most {} steps", Self::MAX_STEPS);
            return Err(ValidationError::new(
                "escalate",
                format_args!("{} steps", self.escalate.len()),
                allowed,
            ));
        }
        let mut earlier = 0;
        for (index, step) in self.escalate.iter().enumerate() {
            let field = format!("escalate[{index}].after");
            check_duration_range(&field, step.after_ms, 1_000, 7 * Self::DAY_MS)?;
            if step.after_ms <= earlier {
                let allowed = format!("more than the {} of the step before", format_duration_ms(earlier));
                return Err(ValidationError::new(field, format_duration_ms(step.after_ms), allowed));
            }
            earlier = step.after_ms;
            check_channels(&format!("escalate[{index}].channels"), &step.channels)?;
        }
        Ok(())
    }
}

/// The refusal of a time, where the word `never` is allowed too.
fn allow_never(why: ValidationError) -> ValidationError {
    ValidationError { expected: format!("{}, or never", why.expected), ..why }
}

fn check_channels(field: &str, names: &[String]) -> Result<(), ValidationError> {
    if names.is_empty() || names.len() > RouteDefinition::MAX_CHANNELS {
        let allowed = format!("1 to {} names of channels", RouteDefinition::MAX_CHANNELS);
        return Err(ValidationError::new(field, format_args!("{} of them", names.len()), allowed));
    }
    names.iter().try_for_each(|name| check_notification_name(field, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(fields: Value) -> Result<RouteDefinition, ValidationError> {
        serde_json::from_value::<RouteFields>(fields).unwrap().into_definition(3)
    }

    #[test]
    fn a_route_reads_back_equal_from_the_fields_that_are_not_at_their_defaults() {
        let least = decode(json!({"channels": ["ops"]})).unwrap();
        assert_eq!((least.remind_ms, least.storm_after, least.position), (3_600_000, 20, 3));
        assert_eq!(
            serde_json::to_value(least.to_fields()).unwrap(),
            json!({"name": "", "channels": ["ops"]})
        );

        let whole = json!({
            "name": "shop", "tags": ["shop"], "all_tags": ["prod", "eu"], "sites": ["7", "https://a.example/"],
            "regions": ["eu-west"], "min_regions": 2, "events": ["incident", "warning"], "channels": ["ops", "mail"],
            "wait": "30s", "delay": "2m", "group_by": "tag", "remind": "never", "storm_after": 50,
            "escalate": [{"after": "15m", "channels": ["phone"]}, {"after": "1h", "channels": ["boss"]}],
            "active": {"time_zone": "Europe/Berlin", "hours": [{"days": ["mon-fri", "sun"], "from": "08:00", "to": "18:00"}]},
            "fallback": true, "enabled": false});
        let route = decode(whole.clone()).unwrap();

        route.validate().unwrap();
        assert_eq!(serde_json::to_value(route.to_fields()).unwrap(), whole);
        assert_eq!(route.named_channels().collect::<Vec<_>>(), ["ops", "mail", "phone", "boss"]);
        assert_eq!(route.escalate_json()[0], json!({"after_ms": 900_000, "channels": ["phone"]}));
    }

    #[test]
    fn a_field_that_cannot_be_used_is_refused_with_what_is_allowed() {
        let step = |after: &str| json!({"after": after, "channels": ["phone"]});
        for (fields, field, allowed) in [
            (json!({}), "channels", "1 to 50"),
            (json!({"channels": ["Ops"]}), "channels", "lower-case"),
            (json!({"channels": ["ops"], "tags": [""]}), "tags", "1 to 64 bytes"),
            (json!({"channels": ["ops"], "regions": ["EU"]}), "regions", "a-z"),
            (json!({"channels": ["ops"], "min_regions": 0}), "min_regions", "1 to 100"),
            (json!({"channels": ["ops"], "events": ["incidents"]}), "events", "did you mean 'incident'"),
            (json!({"channels": ["ops"], "wait": "2h"}), "wait", "0s to 1h"),
            (json!({"channels": ["ops"], "delay": "soon"}), "delay", "such as 15s"),
            (json!({"channels": ["ops"], "group_by": "region"}), "group_by", "route, tag, site"),
            (json!({"channels": ["ops"], "remind": "10s"}), "remind", "or never"),
            (
                json!({"channels": ["ops"], "escalate": [step("1h"), step("15m")]}),
                "escalate[1].after",
                "more than the 1h",
            ),
            (
                json!({"channels": ["ops"], "escalate": [{"after": "1h", "channels": []}]}),
                "escalate[0].channels",
                "1 to 50",
            ),
            (json!({"channels": ["ops"], "name": "a b"}), "name", "lower-case"),
        ] {
            let refusal = decode(fields).unwrap_err();
            assert_eq!(refusal.field, field, "{refusal}");
            assert!(refusal.expected.contains(allowed), "{refusal}");
        }
    }
}
