//! `picket route`, and channels and routes of `picket apply` and `picket export`.

use std::fs;

use serde_json::Value;

use crate::Picket;

#[tokio::test]
async fn a_route_has_a_name_by_default_and_its_test_shows_the_channels_of_each_site() {
    let picket = Picket::new().await;
    picket.run_ok(&["site", "add", "https://shop.example/", "--tag", "shop"]);
    picket.run_ok(&["site", "add", "https://blog.example/"]);
    picket.add_ops();
    picket.run_ok(&["channel", "add", "phone", "--kind", "webhook", "--url", "https://phone.example.com/"]);

    let added = picket.run_ok(&[
        "route",
        "add",
        "--tag",
        "shop",
        "--channel",
        "ops",
        "--escalate",
        "15m=phone",
        "--remind",
        "never",
        "--active",
        "mon-fri 08:00-18:00",
        "--time-zone",
        "Europe/Berlin",
        "--wait",
        "30s",
    ]);
    assert!(added.contains("added route shop-to-ops: incident of tag shop to ops"), "{added}");
    assert!(added.contains("incidents of 1 of 2 sites reach NOBODY"), "{added}");
    let table = picket.run_ok(&["route", "list"]);
    assert!(
        table
            .contains("wait 30s; remind never; escalate 15m=phone; active mon-fri 08:00-18:00 Europe/Berlin"),
        "{table}"
    );
    let tested = picket.run_json(&["route", "test"]);
    assert_eq!(
        (&tested[0]["channels"][0], &tested[0]["escalation_channels"][0]),
        (&"ops".into(), &"phone".into())
    );
    assert_eq!(tested[1]["channels"], Value::Array(Vec::new()));
    let unreached = picket.run_ok(&["route", "test", "--unreached"]);
    assert!(unreached.contains("blog.example") && !unreached.contains("shop.example"), "{unreached}");
    let one = picket.run_ok(&["route", "test", "https://shop.example/"]);
    assert!(one.contains("shop-to-ops") && !one.contains("reach"), "{one}");

    picket.run_ok(&["route", "add", "--fallback", "--channel", "ops"]);
    assert!(picket.run_ok(&["route", "test"]).contains("incidents of all 2 sites reach a channel"));
    for (arguments, part) in [
        (
            &["--channel", "none"][..],
            "channels: 'none' is not allowed; allowed: the name of a channel: ops, phone",
        ),
        (&["--channel", "ops", "--site", "https://none.example/"], "sites: 'https://none.example/'"),
        (&["--channel", "ops", "--region", "us"], "the name of a region: eu"),
        (&["--channel", "ops", "--name", "shop-to-ops"], "no other route has"),
        (&["--channel", "ops", "--escalate", "phone"], "15m=phone"),
    ] {
        let refusal = picket.run_rejected(&[&["route", "add"], arguments].concat());
        assert!(refusal.contains(part), "{refusal}");
    }
    assert!(picket.run_rejected(&["route", "remove", "none"]).contains("shop-to-ops, fallback-to-ops"));
}

#[tokio::test]
async fn channels_and_routes_of_a_file_are_planned_applied_exported_and_pruned() {
    let picket = Picket::new().await;
    let file = "\
sites:
  - {url: 'https://shop.example/', tags: [shop]}
  - url: https://blog.example/
channels:
  ops: {kind: slack, url: {secret: slack-ops}}
routes:
  - {tags: [shop], channels: [ops]}
";
    fs::write(picket.dir().join("sites.yaml"), file).unwrap();

    let dry = picket.run_ok(&["apply", "--dry-run"]);
    for line in [
        "+ channel ops\nchannels: 1 added, 0 changed, 0 removed, 0 unchanged\n",
        "+ route shop-to-ops\nroutes: 1 added, 0 changed, 0 removed, 0 unchanged\n",
        "incidents of 1 of 2 sites reach NOBODY",
        "nothing was changed (--dry-run)\n",
    ] {
        assert!(dry.contains(line), "{dry}");
    }
    assert!(picket.run_ok(&["channel", "list"]).contains("no channels yet"));
    picket.run_ok(&["apply"]);
    let exported = picket.run_ok(&["export"]);
    let again = picket.apply_yaml(&exported, &["--prune"]);
    let again = String::from_utf8(again.stdout).unwrap();
    assert!(again.contains("routes: 0 added, 0 changed, 0 removed, 1 unchanged"), "{again}{exported}");

    // A file without a key leaves what it is about alone, even with --prune.
    let sites = picket.apply_yaml("sites:\n  - url: https://blog.example/\n", &["--prune"]);
    assert!(String::from_utf8(sites.stdout).unwrap().contains("- https://shop.example/"));
    assert!(picket.run_ok(&["route", "list"]).contains("shop-to-ops"));
    let changed = "channels:\n  ops: {kind: slack, url: {secret: slack-new}, pace: 2s}\nroutes:\n  - {channels: [ops]}\n";
    let kept = String::from_utf8(picket.apply_yaml(changed, &[]).stdout).unwrap();
    assert!(kept.contains("    url: secret:slack-ops → secret:slack-new\n"), "{kept}");
    assert!(kept.contains("    pace: default → 2s\n") && !kept.contains("sites:"), "{kept}");
    assert!(kept.contains("not in the file and kept (--prune removes): route shop-to-ops\n"), "{kept}");
    let pruned = String::from_utf8(picket.apply_yaml(changed, &["--prune"]).stdout).unwrap();
    assert!(pruned.contains("- route shop-to-ops\n"), "{pruned}");
    assert!(picket.run_ok(&["site", "list"]).contains("blog.example"));

    let refused = picket.apply_yaml("routes:\n  - {channels: [none]}\n", &[]);
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(2), 0), "{refused:?}");
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(why.contains("channels: 'none'"), "{why}");
}

#[tokio::test]
async fn a_route_is_shown_changed_renamed_paused_and_resumed() {
    let picket = Picket::new().await;
    picket.run_ok(&["site", "add", "https://shop.example/", "--tag", "shop"]);
    picket.add_ops();
    picket.run_ok(&["channel", "add", "phone", "--kind", "webhook", "--url", "https://phone.example.com/"]);
    picket.run_ok(&["route", "add", "--tag", "shop", "--channel", "ops", "--escalate", "15m=phone"]);

    let set = ["route", "set", "shop-to-ops"];
    let changed = [&set[..], &["--channel", "phone", "--remind", "never", "--clear", "escalate"]].concat();
    let told = picket.run_ok(&changed);
    assert!(told.starts_with("changed route shop-to-ops: incident of tag shop to phone\n"), "{told}");
    assert!(told.contains("incidents of all 1 sites reach a channel"), "{told}");
    assert!(picket.run_ok(&changed).contains("already has this definition; nothing was changed"));
    let renamed =
        picket.run_json(&[&set[..], &["--rename", "shop", "--position", "7", "--fallback"]].concat());
    assert_eq!(
        (&renamed[0]["name"], &renamed[0]["position"], &renamed[0]["fallback"], &renamed[0]["enabled"]),
        (&"shop".into(), &7.into(), &true.into(), &true.into()),
        "{renamed}"
    );
    assert_eq!((&renamed[0]["escalate"], &renamed[0]["remind"]), (&Value::Null, &"never".into()));
    let plain = picket.run_json(&["route", "set", "shop", "--no-fallback", "--clear", "remind"]);
    assert_eq!((&plain[0]["fallback"], &plain[0]["remind"]), (&Value::Null, &Value::Null), "{plain}");

    let paused = picket.run_ok(&["route", "pause", "shop"]);
    assert!(paused.starts_with("paused route shop\nincidents of 1 of 1 sites reach NOBODY"), "{paused}");
    assert!(picket.run_ok(&["route", "pause", "shop"]).contains("already paused"));
    let shown = picket.run_ok(&["route", "show", "shop"]);
    for part in ["state     paused", "position  7", "about     tag shop", "channels  phone"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert_eq!(picket.run_json(&["route", "resume", "shop"])[0]["enabled"], true);
    assert_eq!(picket.run_json(&["route", "show", "shop"])[0]["channels"][0], "phone");

    for (arguments, part) in [
        (&["set", "shop-to-ops", "--remind", "2h"][..], "there is no route 'shop-to-ops'; there are: shop"),
        (&["pause", "none"], "there is no route 'none'"),
        (&["show", "none"], "there is no route 'none'"),
        (&["set", "shop", "--channel", "phnoe"], "ops, phone; did you mean 'phone'?"),
        (&["set", "shop", "--escalate", "1h=boss"], "escalate[0].channels: 'boss'"),
        (&["set", "shop", "--remind", "soon"], "such as 15s"),
        (&["set", "shop", "--clear", "channels"], "possible values"),
    ] {
        let refusal = picket.run_rejected(&[&["route"], arguments].concat());
        assert!(refusal.contains(part), "{refusal}");
    }
}

#[tokio::test]
async fn an_unchanged_export_plans_no_change_with_routes_in_odd_positions() {
    let picket = Picket::new().await;
    picket.run_ok(&["site", "add", "https://shop.example/", "--tag", "shop"]);
    picket.add_ops();
    for (name, position) in [("late", "70"), ("first", "3"), ("second", "3"), ("third", "41")] {
        picket.run_ok(&["route", "add", "--channel", "ops", "--name", name, "--position", position]);
    }
    let exported = picket.run_ok(&["export"]);

    let plan = picket.apply_yaml(&exported, &["--prune"]);

    let plan = String::from_utf8(plan.stdout).unwrap();
    assert!(plan.contains("routes: 0 added, 0 changed, 0 removed, 4 unchanged"), "{plan}{exported}");
    assert!(!plan.contains('~'), "{plan}");
    let positions = |listed: Value| -> Vec<(String, i64)> {
        let rows = listed.as_array().unwrap().iter();
        rows.map(|row| (row["name"].as_str().unwrap().to_owned(), row["position"].as_i64().unwrap()))
            .collect()
    };
    let before: Vec<(String, i64)> = positions(picket.run_json(&["route", "list"]));
    assert_eq!(before.iter().map(|(_, position)| *position).collect::<Vec<_>>(), [3, 3, 41, 70]);
    // A route between two others takes a place between them, and the others stay.
    let with_new = exported.replace("- name: third", "- {name: new, channels: [ops]}\n- name: third");
    let added = String::from_utf8(picket.apply_yaml(&with_new, &[]).stdout).unwrap();
    assert!(added.contains("routes: 1 added, 0 changed, 0 removed, 4 unchanged"), "{added}{with_new}");
    let names: Vec<String> =
        positions(picket.run_json(&["route", "list"])).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["first", "second", "new", "third", "late"]);
    assert!(picket.run_ok(&["export"]) == with_export_of_new(&picket), "an export is the same each time");
}

/// The export, applied once more.
fn with_export_of_new(picket: &Picket) -> String {
    let exported = picket.run_ok(&["export"]);
    let plan = String::from_utf8(picket.apply_yaml(&exported, &[]).stdout).unwrap();
    assert!(plan.contains("routes: 0 added, 0 changed, 0 removed, 5 unchanged"), "{plan}");
    picket.run_ok(&["export"])
}

#[tokio::test]
async fn unknown_names_in_routes_of_a_file_are_refused_all_at_once_by_their_lines_before_any_plan() {
    let picket = Picket::new().await;
    picket.add_ops();
    picket.run_ok(&["route", "add", "--channel", "ops", "--name", "kept"]);
    let file = "\
sites:
  - url: https://new.example/
channels:
  desk: {kind: slack, url: {secret: slack-desk}}
routes:
  - channels: [ops]
    tags: [x]
    escalate:
      - {after: 15m, channels: [deks]}
  - {name: two, channels: [none, desk], sites: ['https://new.example/', 'https://gone.example/']}
  - name: three
    channels: [desk]
    regions: [us]
    active: {time_zone: Europe/Atlantis, hours: [{from: '08:00', to: '18:00'}]}
";
    for arguments in [&[][..], &["--dry-run"]] {
        let refused = picket.apply_yaml(file, arguments);

        assert_eq!((refused.status.code(), refused.stdout.len()), (Some(2), 0), "{refused:?}");
        let why = String::from_utf8(refused.stderr).unwrap();
        for line in [
            "standard input, line 9 (route x-to-ops): escalate[0].channels: 'deks' is not allowed; allowed: the name of a \
             channel: desk, ops; did you mean 'desk'?",
            "standard input, line 10 (route two): channels: 'none'",
            "standard input, line 10 (route two): sites: 'https://gone.example/'",
            "standard input, line 13 (route three): regions: 'us' is not allowed; allowed: the name of a region: eu",
            "standard input, line 14 (route three): active.time_zone: 'Europe/Atlantis'",
        ] {
            assert!(why.contains(line), "{line}\n{why}");
        }
        assert_eq!(why.lines().count(), 6, "{why}");
    }
    let pruned = picket.apply_yaml("channels: {}\n", &["--prune"]);
    let why = String::from_utf8(pruned.stderr).unwrap();
    assert!(why.contains("remove these routes first: kept") && pruned.stdout.is_empty(), "{why}");
    assert!(!picket.run_ok(&["channel", "list"]).contains("desk"));
}

#[tokio::test]
async fn a_tag_that_no_site_has_is_named_on_standard_error_and_refuses_nothing() {
    let picket = Picket::new().await;
    picket.run_ok(&["site", "add", "https://shop.example/", "--tag", "shop"]);
    picket.add_ops();
    let warn = |arguments: &[&str]| {
        let output = picket.run(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let add = ["route", "add", "--channel", "ops", "--name"];

    let typo = warn(&[&add[..], &["a", "--tag", "shpo"]].concat());
    assert!(typo.contains("route a: tags: no site has the tag 'shpo'; did you mean 'shop'?"), "{typo}");
    assert!(!warn(&[&add[..], &["b", "--tag", "shop"]].concat()).contains("no site has"));
    assert!(warn(&["route", "list", "--output", "json"]).contains("route a: tags"));
    assert!(!warn(&["route", "set", "a", "--tag", "shop"]).contains("no site has"));
    let silence = warn(&["silence", "add", "--tag", "shpo", "--to", "+1h", "--reason", "x"]);
    assert!(silence.contains("silence 1: tag: no site has the tag 'shpo'; did you mean"), "{silence}");
    assert!(warn(&["silence", "list"]).contains("silence 1: tag: no site has the tag 'shpo'"));

    let file = "\
sites:
  - {url: 'https://new.example/', tags: [new]}
routes:
  - {name: c, channels: [ops], tags: [new]}
  - name: d
    channels: [ops]
    tags: [shop, nwe]
";
    fs::write(picket.dir().join("sites.yaml"), file).unwrap();
    for arguments in [&["apply", "--dry-run"][..], &["apply"]] {
        let warned = warn(arguments);
        let line = "sites.yaml, line 7 (route d): tags: no site has the tag 'nwe'; did you mean 'new'?";
        assert!(warned.contains(line) && warned.matches("no site has").count() == 1, "{warned}");
    }
    let pruned = warn(&["apply", "--dry-run", "--prune"]);
    assert!(pruned.contains("no site has the tag 'shop'"), "the only site with it is removed: {pruned}");
}
