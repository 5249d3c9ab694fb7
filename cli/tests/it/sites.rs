//! `picket site` and `picket region`.

use crate::Picket;

#[tokio::test]
async fn a_site_is_added_listed_changed_paused_resumed_and_removed() {
    let picket = Picket::new().await;

    let added = picket.run_ok(&[
        "site",
        "add",
        "https://example.com",
        "--interval",
        "30s",
        "--regex",
        "ok",
        "--tag",
        "shop",
    ]);
    assert!(added.contains("added site 1") && added.contains("from eu"), "{added}");
    let listed = picket.run_ok(&["site", "list", "--output", "json"]);
    for part in [
        "\"id\": 1",
        "\"interval_seconds\": 30",
        "\"regex\": \"ok\"",
        "\"problem\": null",
        "\"enabled\": true",
    ] {
        assert!(listed.contains(part), "{part}: {listed}");
    }
    picket.run_ok(&["site", "set", "1", "--interval", "1m", "--regex", ""]);
    let shown = picket.run_ok(&["site", "show", "https://example.com"]);
    assert!(shown.contains("eu      1m") && !shown.contains("regex"), "{shown}");
    picket.run_ok(&["site", "pause", "1"]);
    assert!(picket.run_ok(&["site", "pause", "1"]).contains("already paused"));
    assert!(picket.run_ok(&["status"]).contains("1 paused"));
    picket.run_ok(&["site", "resume", "1"]);
    assert!(picket.run_ok(&["status"]).contains("1 unknown"));
    picket.run_ok(&["site", "remove", "1"]);
    assert!(picket.run_ok(&["site", "list"]).contains("no sites yet"));
}

#[tokio::test]
async fn an_invalid_site_is_refused_with_field_value_and_allowed_values_and_changes_nothing() {
    let picket = Picket::new().await;
    for (arguments, parts) in [
        (&["site", "add", "ftp://example.com"][..], &["url: 'ftp://example.com'", "http or https"][..]),
        (&["site", "add", "https://a.example", "--interval", "2s"], &["interval_seconds: '2'", "5 to 86400"]),
        (
            &["site", "add", "https://a.example", "--region", "mars"],
            &["regions: 'mars'", "eu", "picket region add"],
        ),
        (
            &["site", "add", "https://a.example", "--regex", r"(\w{500}){500}"],
            &[r"regex: '(\w{500}){500}'", "compiles to at most 1048576 bytes"],
        ),
        (&["site", "show", "7"], &["no site '7'", "picket site list"]),
        (&["region", "remove", "mars"], &["no region 'mars'"]),
        (&["generate", "3", "--base-url", "nonsense/"], &["base-url: 'nonsense/3'"]),
    ] {
        let refusal = picket.run_rejected(arguments);
        assert!(refusal.starts_with("picket: ") && refusal.lines().count() == 1, "{refusal}");
        for part in parts {
            assert!(refusal.contains(part), "{part}: {refusal}");
        }
    }
    assert!(picket.run_ok(&["site", "list"]).contains("no sites yet"));
}

#[tokio::test]
async fn a_duplicate_site_is_refused_and_the_existing_one_is_named() {
    let picket = Picket::new().await;
    picket.run_ok(&["site", "add", "https://example.com"]);

    let refusal = picket.run_rejected(&["site", "add", "https://example.com", "--interval", "30s"]);

    assert!(refusal.contains("it is site 1"), "{refusal}");
}

#[tokio::test]
async fn a_url_of_several_sites_lists_all_of_them() {
    let picket = Picket::new().await;
    picket.run_ok(&["site", "add", "https://example.com"]);
    picket.run_ok(&["site", "add", "https://example.com", "--regex", "ok"]);

    let refusal = picket.run_rejected(&["site", "pause", "https://example.com"]);

    assert!(
        refusal.contains("is 2 sites") && refusal.contains("2  GET https://example.com  regex 'ok'"),
        "{refusal}"
    );
}

#[tokio::test]
async fn sites_that_differ_in_an_option_are_added_listed_and_told_apart() {
    let picket = Picket::new().await;
    picket.run_ok(&["site", "add", "https://example.com"]);
    picket.run_ok(&["site", "add", "https://example.com", "--connect-to", "192.0.2.1"]);
    picket.run_ok(&["site", "add", "https://example.com", "--warn-after", "2s"]);

    let double = picket.run_rejected(&[
        "site",
        "add",
        "https://example.com",
        "--connect-to",
        "192.0.2.1",
        "--name",
        "b",
    ]);
    let same = picket.run_rejected(&["site", "set", "3", "--warn-after", "", "--connect-to", "192.0.2.1"]);
    let several = picket.run_rejected(&["site", "show", "https://example.com"]);

    for refusal in [double, same] {
        assert!(refusal.contains("options and assertions; it is site 2"), "{refusal}");
    }
    for line in [
        "1  GET https://example.com\n",
        "2  GET https://example.com  options.connect_to: 192.0.2.1\n",
        "3  GET https://example.com  assertions.warn_after_ms: 2000\n",
    ] {
        assert!(several.contains(line), "{several}");
    }
}

#[tokio::test]
async fn generating_sites_repeatedly_creates_each_once() {
    let picket = Picket::new().await;
    let generate = |count| picket.run_ok(&["generate", count, "--base-url", "http://127.0.0.1:1/"]);

    assert_eq!(generate("10"), "added 10 sites\n");
    assert_eq!(generate("12"), "added 2 sites; 10 existed already\n");
    assert!(picket.run_ok(&["leases"]).contains("(none)"));
}
