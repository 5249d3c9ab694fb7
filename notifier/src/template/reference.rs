//! Variables and filters of templates, for the reference.

use VariableForm::{Flag, List, Number, Object, Text, Time};

/// A value for templates.
#[derive(Clone, Copy, Debug)]
pub struct TemplateVariable {
    /// Name of the variable, or of the field.
    pub name: &'static str,
    /// Type of the value.
    pub form: VariableForm,
    /// True if the value may be none.
    pub is_optional: bool,
    /// Meaning, as part of a sentence.
    pub meaning: &'static str,
}

/// Type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VariableForm {
    /// A text.
    Text,
    /// A number.
    Number,
    /// True or false.
    Flag,
    /// A time, as a text by RFC 3339.
    Time,
    /// A list.
    List,
    /// An object with fields.
    Object,
}

impl VariableForm {
    /// The type in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Number => "number",
            Self::Flag => "true or false",
            Self::Time => "time",
            Self::List => "list",
            Self::Object => "object",
        }
    }
}

const fn always(name: &'static str, form: VariableForm, meaning: &'static str) -> TemplateVariable {
    TemplateVariable { name, form, is_optional: false, meaning }
}

const fn sometimes(name: &'static str, form: VariableForm, meaning: &'static str) -> TemplateVariable {
    TemplateVariable { name, form, is_optional: true, meaning }
}

/// Variables of every template.
pub const MESSAGE_VARIABLES: &[TemplateVariable] = &[
    always(
        "title",
        Text,
        "the built-in title, such as `DOWN shop.example.com: connection refused (3 of 4 regions)`",
    ),
    always("text", Text, "the built-in text, title included, in the markup of the receiver"),
    always("severity", Text, "`critical`, `warning`, `info` or `resolved`: that of the first item"),
    always("purpose", Text, "`alert`, `reminder`, `escalation`, `digest` or `test`"),
    always("items", List, "what is told, the worst first; at most 20"),
    always("hidden_items", Number, "further items, which are not in `items`"),
    always("counts", Object, "frequencies over all items of a message about several"),
    always("notes", List, "sentences about the message, such as that a silence is over"),
    sometimes("link", Text, "page of Picket's web UI about the message"),
    always("composed_at", Time, "time when the message was composed"),
    always("id", Text, "number of the notification, the same at each attempt"),
    sometimes("thread", Text, "number of the first notification about the same"),
    always(
        "is_repeat",
        Flag,
        "whether the end of an earlier attempt is unknown, so that this may be a second copy",
    ),
    sometimes("event", Object, "the event, in messages to programs"),
];

/// Fields of each of `items`.
pub const ITEM_VARIABLES: &[TemplateVariable] = &[
    always(
        "verdict",
        Text,
        "`down`, `flapping`, `warns`, `silent`, `failing`, `unaccounted`, `up`, `was_down`, `unwatched`, \
         `warning_over`, `back`, `working` or `test`",
    ),
    always("word", Text, "the verdict as a heading, such as `DOWN`"),
    always("name", Text, "name of the site, of the region or of the channel"),
    sometimes("url", Text, "URL of the site"),
    always("tags", List, "tags of the site"),
    sometimes("incident_id", Number, "number of the incident"),
    sometimes("cause", Text, "cause in words, such as `connection refused`"),
    sometimes("cause_code", Text, "cause as a word of the contract, such as `connect`"),
    sometimes("explanation", Text, "what the prober says about it"),
    always("regions", List, "regions that were down or warned"),
    sometimes("regions_reporting", Number, "number of regions that reported"),
    sometimes("first_failure_at", Time, "time of the first failed check"),
    always("opened_at", Time, "time when it began"),
    sometimes("closed_at", Time, "time when it ended"),
    always("duration_ms", Number, "milliseconds from the beginning to the end, or until now"),
    sometimes("failed_checks", Number, "failed checks so far"),
    sometimes("http_status", Number, "HTTP status of the deciding check"),
    always("phases", List, "pairs of a phase of the deciding check and its microseconds"),
    sometimes("link", Text, "page of the incident, the site or the channel"),
    sometimes("note", Text, "sentence such as `flapping: 3 times in 40 min`"),
];

/// Fields of `event`.
pub const EVENT_VARIABLES: &[TemplateVariable] = &[
    always("name", Text, "name of the event, such as `incident.opened`"),
    always("at", Time, "time of the event"),
    always("dedup_key", Text, "key of what the event is about, the same when it ends"),
    always("is_end", Flag, "whether the event ends what an earlier one began"),
    always("data", Object, "payload of the event, with `link` and `failed_checks`"),
];

/// Fields of `counts`.
pub const COUNT_VARIABLES: &[TemplateVariable] = &[
    always("causes", List, "pairs of a cause in words and its number, the most frequent first"),
    always("regions", List, "pairs of a region and its number"),
    always("tags", List, "pairs of a tag and its number"),
];

/// A template with its output.
#[derive(Clone, Copy, Debug)]
pub struct TemplateExample {
    /// The template.
    pub source: &'static str,
    /// True in the body of a webhook.
    pub is_json: bool,
    /// The output for a sample of a site down.
    pub printed: &'static str,
}

const fn example(source: &'static str, printed: &'static str) -> TemplateExample {
    TemplateExample { source, is_json: false, printed }
}

/// Uses of variables.
pub const TEMPLATE_EXAMPLES: &[TemplateExample] = &[
    example("{{ items[0].name }} is {{ items[0].word }}", "shop.example.com is DOWN"),
    example("{{ items[0].duration_ms|duration }}", "1 min 5 s"),
    example("{{ items[0].opened_at|time }}", "2026-11-20 12:01:03 UTC"),
    example(
        "{{ items[0].opened_at|time('clock') }} {{ items[0].opened_at|time('date') }}",
        "12:01 2026-11-20",
    ),
    example("{{ items[0].opened_at|time('unix') }}", "1795176063"),
    example("{{ items[0].opened_at|time('iso') }}", "2026-11-20T12:01:03.000000Z"),
    example(
        "{{ items[0].regions|join(', ') }} of {{ items[0].regions_reporting }}",
        "eu-west, us-east, asia of 4",
    ),
    example("{% for item in items %}{{ item.cause or 'no cause' }}{% endfor %}", "connection refused"),
    example("{% if 'shop' in items[0].tags %}call the shop{% endif %}", "call the shop"),
    example("{{ items|length + hidden_items }} in all", "1 in all"),
    TemplateExample {
        source: "{\"text\": {{ title ~ '!' }}}",
        is_json: true,
        printed: "{\"text\": \"DOWN shop.example.com: connection refused (3 of 4 regions)!\"}",
    },
    TemplateExample {
        source: "{\"id\": {{ event.data.incident_id|default(none) }}, \"tags\": {{ items[0].tags }}}",
        is_json: true,
        printed: "{\"id\": 17, \"tags\": [\"shop\",\"eu\"]}",
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use picket_proto::Timestamp;
    use serde_json::Value as Json;

    use super::{
        super::{Markup, render},
        *,
    };
    use crate::{message::Message, samples};

    fn all_samples() -> [Message; 6] {
        [
            samples::down(),
            samples::up(),
            samples::warning(),
            samples::reminder(),
            samples::digest(),
            samples::test(),
        ]
    }

    fn is_of_form(value: &Json, form: VariableForm) -> bool {
        match form {
            Text => value.is_string(),
            Number => value.is_number(),
            Flag => value.is_boolean(),
            Time => value.as_str().is_some_and(|text| text.parse::<Timestamp>().is_ok()),
            List => value.is_array(),
            Object => value.is_object(),
        }
    }

    /// Compares the fields of an object, as a template sees it, with those documented.
    fn check_fields(object: &str, documented: &[TemplateVariable], message: &Message) {
        let names: Vec<_> =
            documented.iter().map(|variable| format!("'{}': {object}.{0}", variable.name)).collect();
        let fields = names.join(", ").replace("message.", "");
        let printed = render(&format!("{{{{ {{{fields}}} }}}}"), Markup::Json, message).unwrap();
        let values: Json = serde_json::from_str(&printed).unwrap();
        for variable in documented {
            let value = &values[variable.name];
            let is_fine = is_of_form(value, variable.form) || variable.is_optional && value.is_null();
            assert!(is_fine, "{object}.{}: {value}", variable.name);
        }
    }

    #[test]
    fn each_documented_variable_exists_in_every_message_and_has_its_type() {
        for message in all_samples() {
            check_fields("message", MESSAGE_VARIABLES, &message);
            check_fields("items[0]", ITEM_VARIABLES, &message);
            check_fields("counts", COUNT_VARIABLES, &message);
            if message.event.is_some() {
                check_fields("event", EVENT_VARIABLES, &message);
            }
        }
    }

    #[test]
    fn each_field_of_a_message_is_documented() {
        let message = serde_json::to_value(samples::down()).unwrap();
        for (place, documented, added) in [
            ("", MESSAGE_VARIABLES, &["text"][..]),
            ("/items/0", ITEM_VARIABLES, &["word"]),
            ("/event", EVENT_VARIABLES, &[]),
            ("/counts", COUNT_VARIABLES, &[]),
        ] {
            let fields = message.pointer(place).unwrap().as_object().unwrap().keys().map(String::as_str);
            let fields: BTreeSet<_> =
                fields.filter(|name| *name != "csv").chain(added.iter().copied()).collect();
            let names: BTreeSet<_> = documented.iter().map(|variable| variable.name).collect();
            assert_eq!(fields, names, "{place}");
        }
    }

    #[test]
    fn each_documented_example_prints_what_it_says() {
        for example in TEMPLATE_EXAMPLES {
            let markup = if example.is_json { Markup::Json } else { Markup::Plain };
            let printed = render(example.source, markup, &samples::down()).unwrap();
            assert_eq!(printed, example.printed, "{}", example.source);
        }
    }
}
