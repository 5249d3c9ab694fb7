//! Assertions and options of a site: by command, by file and by SQL.

use picket_harness::documented_examples::DocumentedExamples;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::Picket;

impl Picket {
    /// The site as `picket site show` prints it in JSON.
    fn show_json(&self, site: &str) -> Value {
        let shown: Value =
            serde_json::from_str(&self.run_ok(&["site", "show", site, "--output", "json"])).unwrap();
        shown[0].clone()
    }
}

#[tokio::test]
async fn assertions_and_options_are_added_changed_one_by_one_and_removed() {
    let picket = Picket::new().await;
    picket.run_ok(&[
        "site",
        "add",
        "https://a.example",
        "--assert-json",
        "$.status == \"ok\"",
        "--assert-json",
        "$.n < 5",
        "--warn-after",
        "2s",
        "--auth-bearer",
        "secret:shop",
    ]);

    let added = picket.show_json("1");
    let replaced = picket.run_ok(&["site", "set", "1", "--assert-json", "$.n > 1", "--http-version", "2"]);
    let changed = picket.show_json("1");
    picket.run_ok(&[
        "site",
        "set",
        "1",
        "--assert-json=",
        "--warn-after=",
        "--auth-bearer=",
        "--http-version=any",
    ]);
    let cleared = picket.show_json("1");
    let again = picket.run_ok(&["site", "set", "1", "--assert-header="]);

    assert_eq!(
        (&added["assertions"], &added["options"]),
        (
            &json!({"json": [{"path": "$.status", "equals": "ok"}, {"path": "$.n", "less_than": 5.0}], "warn_after_ms": 2000}),
            &json!({"auth": {"bearer": {"secret": "shop"}}})
        )
    );
    assert!(replaced.contains("changed site 1"), "{replaced}");
    assert_eq!(
        (&changed["assertions"], &changed["options"]),
        (
            &json!({"json": [{"path": "$.n", "greater_than": 1.0}], "warn_after_ms": 2000}),
            &json!({"auth": {"bearer": {"secret": "shop"}}, "http_version": "2"})
        )
    );
    assert_eq!((cleared.get("assertions"), cleared.get("options")), (None, None));
    assert!(again.contains("nothing was changed"), "{again}");
}

#[tokio::test]
async fn a_wrong_assertion_or_a_secret_in_place_of_a_name_is_refused_in_one_line() {
    let picket = Picket::new().await;
    for (option, value, parts) in [
        ("--assert-json", "$.status == ok", &["assertions.json[0]: '$.status == ok'", "double quotes"][..]),
        ("--assert-header", "A: b", &["assertions.headers[0]: 'A: b'", "without a colon"]),
        ("--must-fail", "conect", &["assertions.must_fail[0]: 'conect'", "connect"]),
        ("--auth-bearer", "hunter2", &["options.auth.bearer: '(hidden)'", "secret:NAME"]),
        ("--auth-basic", "alice:hunter2", &["options.auth.basic: '(hidden)'", "USER:secret:NAME"]),
        ("--secret-header", "X-Key: hunter2", &["options.secret_headers: '(hidden)'", "HEADER=secret:NAME"]),
    ] {
        let refusal = picket.run_rejected(&["site", "add", "https://a.example", option, value]);
        let of_check = picket.run_rejected(&["check", "https://a.example", option, value]);
        assert_eq!(refusal, of_check);
        assert!(refusal.starts_with("picket: ") && refusal.lines().count() == 1, "{refusal}");
        assert!(!refusal.contains("hunter2"), "{refusal}");
        for part in parts {
            assert!(refusal.contains(part), "{part}: {refusal}");
        }
    }
    assert!(picket.run_ok(&["site", "list"]).contains("no sites yet"));
}

#[tokio::test]
async fn the_statement_of_the_reference_defines_a_site_with_assertions() {
    let picket = Picket::new().await;
    let page = DocumentedExamples::read("reference/assertions-and-options.md");
    let mut database = PgConnection::connect(&picket.database_url).await.unwrap();

    sqlx::raw_sql(AssertSqlSafe(page.code_block("sql").to_owned())).execute(&mut database).await.unwrap();

    let shown = picket.run_ok(&["site", "show", "1"]);
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    for line in [
        "assertions.json $.status == \"ok\"",
        "assertions.json $.queue.length < 100",
        "assertions.headers Content-Type =~ ^application/json",
        "assertions.warn_after_ms 2000",
        "options.auth bearer secret:shop-token",
    ] {
        assert!(shown.lines().any(|shown| words(shown) == words(line)), "{line}: {shown}");
    }
    assert_eq!(
        picket.apply_yaml(&picket.run_ok(&["export"]), &["--prune"]).stdout,
        b"0 added, 0 changed, 0 removed, 1 unchanged\n"
    );
}

#[tokio::test]
async fn an_object_that_sql_misspelt_is_reported_by_its_field_and_without_its_value() {
    let picket = Picket::new().await;
    let mut database = PgConnection::connect(&picket.database_url).await.unwrap();
    sqlx::raw_sql(
        r#"INSERT INTO picket.sites (url, options, assertions) VALUES
           ('https://a.example/', '{"auth": {"bearer": "hunter2"}}', '{}'),
           ('https://b.example/', '{}', '{"json": [{"path": "$", "equal": 1}]}')"#,
    )
    .execute(&mut database)
    .await
    .unwrap();

    let listed = picket.run_ok(&["site", "list"]);
    let refusal = picket.run_rejected(&["site", "set", "1", "--interval", "30s"]);
    let plan = picket.apply_yaml("sites:\n  - url: https://a.example/\n", &["--dry-run"]);

    assert!(listed.contains("options.auth.bearer: '(hidden)'"), "{listed}");
    assert!(
        listed.contains("assertions.json[0].equal") && listed.contains("did you mean 'equals'?"),
        "{listed}"
    );
    assert!(refusal.contains("correct it by SQL first: options.auth.bearer"), "{refusal}");
    let plan = String::from_utf8(plan.stdout).unwrap();
    assert!(plan.contains("options.auth.bearer: (hidden) → (the file's)"), "{plan}");
    for text in [listed, refusal, plan] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}
