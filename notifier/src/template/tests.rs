use super::*;

fn refusal(source: &str, markup: Markup) -> String {
    check_template("body", source, markup).expect_err(source).to_string()
}

#[test]
fn a_template_knows_all_of_a_message() {
    let source = "\
{{ title }} / {{ severity }} / {{ purpose }}
{% for item in items %}{{ item.word }} {{ item.name }}: {{ item.cause }}, {{ item.regions|join(\", \") }} of \
{{ item.regions_reporting }}, {{ item.duration_ms|duration }} since {{ item.opened_at|time }}
{% endfor %}{% for cause, count in counts.causes %}{{ cause }}: {{ count }}
{% endfor %}{% if hidden_items %}and {{ hidden_items }} more{% endif %}{% if link %} {{ link }}{% endif %}";
    check_template("body", source, Markup::Plain).unwrap();

    let text = render(source, Markup::Plain, &samples::down()).unwrap();
    assert_eq!(
        text,
        "DOWN shop.example.com: connection refused (3 of 4 regions) / critical / alert\n\
         DOWN shop.example.com: connection refused, eu-west, us-east, asia of 4, 1 min 5 s since 2026-11-20 12:01:03 UTC\n \
         https://picket.example.com/incidents/17"
    );
    let digest = render(source, Markup::Plain, &samples::digest()).unwrap();
    assert!(digest.contains("connection refused: 131\n") && digest.contains("and 153 more"), "{digest}");
}

#[test]
fn times_have_forms_and_what_is_missing_prints_nothing() {
    let source = "{% set at = items[0].opened_at %}{{ at|time('date') }} {{ at|time('clock') }} {{ at|time('unix') }} \
                  {{ at|time('iso') }}[{{ items[0].closed_at|time }}{{ items[0].note }}{{ none|duration }}]";

    let text = render(source, Markup::Plain, &samples::down()).unwrap();

    assert_eq!(text, "2026-11-20 12:01 1795176063 2026-11-20T12:01:03.000000Z[]");
    assert!(
        refusal("{{ composed_at|time('ago') }}", Markup::Plain)
            .contains("allowed: utc, date, clock, iso or unix")
    );
    assert!(refusal("{{ title|time }}", Markup::Plain).contains("filter time takes a time"));
    assert!(refusal("{{ title|duration }}", Markup::Plain).contains("filter duration takes milliseconds"));
}

#[test]
fn a_refusal_names_the_template_the_line_and_what_is_wrong() {
    for (source, line, why) in [
        ("ok\n{{ title", "line 2: ", "syntax error"),
        ("\n\n{{ items[0].nme }}", "line 3: ", "undefined value"),
        ("{{ title|shout }}", "line 1: ", "filter shout is unknown"),
        ("{{ title|safe }}", "line 1: ", "filter safe is unknown"),
        ("{% include 'x' %}", "line 1: ", "include"),
        ("{{ items[0].name.upper() }}", "line 1: ", "upper"),
        ("{% if false %}x{% endif %}", "", "it prints nothing"),
        ("{{ thread_ref }}", "line 1: ", "undefined value"),
        ("{{ csv }}", "line 1: ", "undefined value"),
    ] {
        let refusal = refusal(source, Markup::Plain);
        assert!(refusal.starts_with("body: '"), "{refusal}");
        assert!(refusal.contains(line) && refusal.contains(why), "{source}: {refusal}");
    }
    // Correct for one site down, and wrong for a digest.
    assert!(refusal("{{ event.name }}", Markup::Plain).contains("(many sites down): line 1: "));
    assert!(refusal(&"x".repeat(MAX_TEMPLATE_BYTES + 1), Markup::Plain).contains("at most 16384 bytes"));
}

#[test]
fn a_template_without_end_is_refused_when_saved_and_stopped_when_rendered() {
    for endless in [
        "{% for a in range(10000) %}{% for b in range(10000) %}x{% endfor %}{% endfor %}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{% set ns = namespace(s='xxxxxxxx') %}{% for a in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
        "{{ 'x' * 1000000000 }}",
        "{{ '%1000000000d'|format(1) }}",
        "{{ [1] * 100000000 }}",
        "{{ ([1] * 100000000)|string }}",
        "{{ ([1] * 100000000)|pprint }}",
        "{{ ([1] * 100000000)|join }}",
        "{{ ([1] * 100000000)|tojson }}",
        "{{ ([1] * 100000000)|list }}",
        "{{ ([1] * 100000000)|sort|length }}",
        "{{ ([1] * 100000000)|unique|list|length }}",
        "{{ ([1] * 100000000) ~ '' }}",
        "{{ '%s'|format([1] * 100000000) }}",
        "{{ 2 in ([1] * 100000000) }}",
        "{{ ([1] * 100000000) == ([1] * 100000000) }}",
        "{{ ([1] * 100000000)|sum }}",
        "{{ ([1] * 100000000)|duration }}",
        "{{ ([1] * 100000000)|time }}",
        "{{ ([1] * 100000000)|e }}",
        "{{ title[[1] * 100000000] }}",
        "{{ {'a': [1] * 100000000} }}",
        "{{ nothing([1] * 100000000) }}",
        "{{ title|round([1] * 100000000) }}",
        "{{ [1] * 100000000 + 1 }}",
        "{{ ('x' * 100000)|replace('x', 'y' * 100000) }}",
        "{{ title|indent(1000000000) }}",
        "{{ '{{ ' }}{% raw %}{{ ' {% endraw %}{{ [1] * 100000000 }}{# ' #}",
        "{{ '%}' ~ ([[2]] ** 100000000) }}",
        "{{ title|replace('', 'yyyyyyyyyyyyyyyyyyyyyyyyyyyy')|replace('', title)|replace('', title)|replace('', title) }}",
        "{% for a in range(9000) %}{{ text }}{% endfor %}",
    ] {
        refusal(&format!("{{\"a\": {endless} }}"), Markup::Json);
        let why = refusal(endless, Markup::Plain);
        assert!(why.contains("allowed: a template that can be rendered"), "{endless}: {why}");

        let rendering = render_or_else(Some(endless), "body", Markup::Plain, &samples::down(), |message| {
            message.title.clone()
        });
        assert_eq!(rendering.text, samples::down().title, "{endless}");
        let note = rendering.note.unwrap();
        assert!(note.starts_with("sent in the built-in layout, because template 'body' failed: "), "{note}");
    }
}

#[test]
fn a_text_that_is_too_long_to_send_is_refused() {
    let source = "{% for a in range(7000) %}xxxxxxxxxx{% endfor %}";

    assert!(refusal(source, Markup::Plain).contains("it prints 70000 bytes, which is more than 65536"));
}

#[test]
fn a_printed_value_is_escaped_for_its_receiver_and_once() {
    let message = samples::named("<b>&\"shop\"");
    let rendered = |source: &str, markup| render(source, markup, &message).unwrap();

    assert_eq!(rendered("<p>{{ items[0].name }}</p>", Markup::Html), "<p>&lt;b&gt;&amp;&quot;shop&quot;</p>");
    assert_eq!(rendered("{{ items[0].name|e }}", Markup::Html), "&lt;b&gt;&amp;&quot;shop&quot;");
    assert_eq!(rendered("{{ items[0].name|escape }}", Markup::Plain), "<b>&\"shop\"");
    let macro_ = "{% macro show(name) %}<i>{{ name }}</i>{% endmacro %}{{ show(items[0].name) }}";
    assert_eq!(rendered(macro_, Markup::Html), "<i>&lt;b&gt;&amp;&quot;shop&quot;</i>");
    let unescaped = "{% autoescape false %}{{ items[0].name }}{% endautoescape %}";
    assert_eq!(rendered(unescaped, Markup::Html), "&lt;b&gt;&amp;&quot;shop&quot;");
    assert!(rendered("{{ text }}", Markup::Html).contains("<b>DOWN &lt;b&gt;&amp;&quot;shop&quot;"));
    assert_eq!(rendered("{{ items[0].name }}", Markup::Receiver(&Stars)), "*<b>&\"shop\"*");
    assert!(rendered("{{ text }}", Markup::Receiver(&Stars)).starts_with("!*DOWN"));
}

/// A markup whose escapes and bold texts can be told apart.
struct Stars;

impl text::Markup for Stars {
    fn escape(&self, text: &str) -> String {
        format!("*{text}*")
    }

    fn bold(&self, marked: &str) -> String {
        format!("!{marked}!")
    }

    fn link(&self, label: &str, url: &str) -> String {
        format!("{label} {url}")
    }
}

#[test]
fn hostile_names_stay_on_their_line_in_every_markup() {
    for name in samples::HOSTILE_NAMES {
        let message = samples::named(name);
        let line = render("{{ title }}", Markup::Line, &message).unwrap();
        assert!(!line.contains(['\r', '\n', '\u{202e}', '\0']), "{line:?}");
        let text = render("a {{ items[0].name }} b", Markup::Plain, &message).unwrap();
        assert_eq!(text.lines().count(), 1, "{text:?}");
        let json =
            render(r#"{"name": {{ items[0].name }}, "all": {{ items }}}"#, Markup::Json, &message).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert!(json["name"].is_string() && json["all"].is_array(), "{json}");
    }
}

#[test]
fn a_body_of_json_is_checked_to_be_json_with_the_values_of_an_event() {
    let source = r#"{"text": {{ title }}, "incident": {{ event.data.incident_id|default(none) }}, "end": {{ event.is_end }},
        "note": {{ items[0].note }}, "item": {{ items[0] }}}"#;
    check_template("body", source, Markup::Json).unwrap();
    let json = render(source, Markup::Json, &samples::named("\"}, {\"")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["text"], "DOWN \"}, {\": connection refused");
    assert_eq!(
        (&json["incident"], &json["end"], &json["note"]),
        (&17.into(), &false.into(), &serde_json::Value::Null)
    );
    assert_eq!(json["item"]["name"], "\"}, {\"");

    let refused = refusal("{\"text\": \"{{ title }}\"}", Markup::Json);
    assert!(refused.contains("it prints no JSON: "), "{refused}");
    assert!(refused.contains("without marks around {{ title }}"), "{refused}");
    assert!(refusal("{\"text\": {{ title }},}", Markup::Json).contains("it prints no JSON: "));
}
