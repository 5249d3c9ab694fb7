//! `picket token`.

use serde_json::Value;

use crate::Picket;

#[tokio::test]
async fn a_token_is_created_with_its_secret_listed_without_it_and_revoked_by_its_name() {
    let picket = Picket::new().await;

    let told = picket.run_ok(&[
        "token",
        "create",
        "ci",
        "--scopes",
        "write,read",
        "--tags",
        "shop",
        "--expires",
        "+90d",
    ]);
    let secret = told.lines().find(|line| line.starts_with("pkt_")).unwrap().to_owned();
    assert!(secret.len() == 36 && told.contains("read, write; sites with the tags shop; until"), "{told}");

    let table = picket.run_ok(&["token", "list"]);
    assert!(table.contains("ci") && table.contains("valid") && !table.contains(&secret), "{table}");
    let json = picket.run_ok(&["token", "list", "--output", "json"]);
    let listed: Vec<Value> = serde_json::from_str(&json).unwrap();
    assert_eq!((&listed[0]["scopes"][1], &listed[0]["tags"][0]), (&"write".into(), &"shop".into()));
    assert!(!json.contains(&secret));

    assert!(picket.run_ok(&["token", "revoke", "ci"]).contains("revoked token"));
    assert!(picket.run_ok(&["token", "list"]).contains("no valid tokens"));
    assert!(picket.run_ok(&["token", "list", "--all"]).contains("revoked"));
    assert!(picket.run_rejected(&["token", "revoke", "ci"]).contains("there is no valid token 'ci'"));
    // The name of a revoked token is free again, and an id revokes too.
    let again = picket.run_ok(&["token", "create", "ci", "--scopes", "read", "--output", "json"]);
    let again: Value = serde_json::from_str(&again).unwrap();
    assert!(again["secret"].as_str().unwrap().starts_with("pkt_"));
    picket.run_ok(&["token", "revoke", &again["id"].to_string()]);
}

#[tokio::test]
async fn a_token_that_is_not_allowed_is_refused_with_the_reason() {
    let picket = Picket::new().await;
    picket.run_ok(&["token", "create", "ci", "--scopes", "read"]);

    for (arguments, part) in [
        (&["ci", "--scopes", "read"][..], "there is a valid token 'ci' already"),
        (&["a", "--scopes", "admin", "--tags", "shop"], "no tags beside the scope admin"),
        (&["", "--scopes", "read"], "1 to 100 visible characters"),
        (&["a", "--scopes", "read", "--expires", "2020-01-01T00:00:00Z"], "a time after"),
    ] {
        let refusal = picket.run_rejected(&[&["token", "create"], arguments].concat());
        assert!(refusal.contains(part), "{refusal}");
    }
}
