//! The form of a route: its fields as texts, and back.

use std::collections::BTreeMap;

use picket_proto::{
    ValidationError,
    route::{EscalationFields, ROUTE_EVENTS, ROUTE_GROUPS, RouteDefinition, RouteFields},
};

use super::list_page::{FormField, FormView};

/// The form of a new route, or of a stored one.
pub(super) fn build_route_form(
    name: &'static str,
    action: String,
    route: Option<&RouteDefinition>,
    button: &'static str,
) -> FormView {
    let fields = route.map(RouteDefinition::to_fields).unwrap_or_default();
    let field = |name, label, placeholder, value: String| FormField {
        name,
        label,
        value,
        placeholder,
        ..FormField::default()
    };
    let choose = |words: &[&str]| words.iter().map(|word| ((*word).to_owned(), (*word).to_owned())).collect();
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let mut form = vec![
        field("name", "Name (optional)", "shop-to-ops", text(&fields.name)),
        field("channels", "Channels, separated by commas", "ops", fields.channels.join(", ")),
        field("tags", "Any of these tags (optional)", "shop", fields.tags.join(", ")),
        field("sites", "These sites, by number or URL (optional)", "", fields.sites.join(", ")),
        field("regions", "Down in any of these regions (optional)", "", fields.regions.join(", ")),
        field(
            "events",
            "Events",
            ROUTE_EVENTS[0],
            fields.events.unwrap_or_else(|| vec![ROUTE_EVENTS[0].to_owned()]).join(", "),
        ),
        field("wait", "Collect for (optional)", "10s", text(&fields.wait)),
        field("delay", "Only what lasts (optional)", "2m", text(&fields.delay)),
        field("remind", "Remind after, or never", "1h", text(&fields.remind)),
        field("escalate", "Escalate (optional)", "15m=phone, 1h=boss", write_escalation(&fields.escalate)),
        FormField {
            options: std::iter::once((String::new(), "as the channel's kind".to_owned()))
                .chain(ROUTE_GROUPS.map(|word| (word.to_owned(), word.to_owned())))
                .collect(),
            ..field("group_by", "One message for each", "", text(&fields.group_by))
        },
        FormField {
            options: choose(&["no", "yes"]),
            ..field(
                "fallback",
                "Only where no other route applies",
                "",
                if fields.fallback { "yes" } else { "no" }.to_owned(),
            )
        },
    ];
    if route.is_none() {
        form.push(FormField {
            options: choose(&["no", "yes"]),
            ..field("catch_up", "Tell of what is open now", "", "no".to_owned())
        });
    }
    if let Some(route) = route {
        form.push(field("position", "Position", "0", route.position.to_string()));
        form.push(FormField {
            options: choose(&["yes", "no"]),
            ..field("enabled", "Switched on", "", if route.enabled { "yes" } else { "no" }.to_owned())
        });
    }
    FormView {
        name,
        prefix: "route",
        action,
        is_post: true,
        is_panel: true,
        fields: form,
        button,
        ..FormView::default()
    }
}

/// `15m=phone, 1h=boss+desk`.
pub(super) fn write_escalation(steps: &[EscalationFields]) -> String {
    let step = |step: &EscalationFields| format!("{}={}", step.after, step.channels.join("+"));
    steps.iter().map(step).collect::<Vec<_>>().join(", ")
}

/// The fields of a route with the values of a form. Fields that the form does not have stay.
///
/// # Errors
/// If an escalation has another form.
pub(super) fn apply_form(
    mut fields: RouteFields,
    form: &BTreeMap<String, String>,
) -> Result<RouteFields, ValidationError> {
    let get = |name: &str| form.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
    let text = |name: &str| get(name).map(str::to_owned);
    let list = |name: &str| -> Vec<String> {
        let words = get(name).unwrap_or_default().split(',').map(str::trim).filter(|word| !word.is_empty());
        words.map(str::to_owned).collect()
    };
    fields.name = text("name");
    fields.channels = list("channels");
    fields.tags = list("tags");
    fields.sites = list("sites");
    fields.regions = list("regions");
    fields.events = Some(list("events")).filter(|events| !events.is_empty());
    (fields.wait, fields.delay, fields.remind) = (text("wait"), text("delay"), text("remind"));
    fields.group_by = text("group_by");
    fields.fallback = get("fallback") == Some("yes");
    fields.enabled = get("enabled").map(|word| word == "yes").or(fields.enabled);
    fields.escalate = list("escalate")
        .iter()
        .map(|step| {
            let (after, channels) = step.split_once('=').ok_or_else(|| {
                ValidationError::new(
                    "escalate",
                    step,
                    "a time and channels, such as 15m=phone or 1h=boss+desk",
                )
            })?;
            let channels = channels.split('+').map(|channel| channel.trim().to_owned()).collect();
            Ok(EscalationFields { after: after.trim().to_owned(), channels })
        })
        .collect::<Result<_, ValidationError>>()?;
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_keeps_what_it_shows_and_what_it_does_not_show() {
        let fields = RouteFields {
            name: Some("shop".to_owned()),
            tags: vec!["a".to_owned(), "b".to_owned()],
            all_tags: vec!["c".to_owned()],
            channels: vec!["ops".to_owned()],
            remind: Some("never".to_owned()),
            storm_after: Some(5),
            escalate: vec![EscalationFields {
                after: "15m".to_owned(),
                channels: vec!["phone".to_owned(), "desk".to_owned()],
            }],
            fallback: true,
            enabled: Some(false),
            ..RouteFields::default()
        };
        let route = fields.into_definition(3).unwrap();
        let form = build_route_form("Definition", String::new(), Some(&route), "Save").fields;
        let form = form.into_iter().map(|field| (field.name.to_owned(), field.value)).collect();

        let kept = apply_form(route.to_fields(), &form).unwrap().into_definition(3).unwrap();

        assert_eq!(kept, route);
        let bad = BTreeMap::from([("escalate".to_owned(), "soon".to_owned())]);
        assert_eq!(apply_form(RouteFields::default(), &bad).unwrap_err().field, "escalate");
    }
}
