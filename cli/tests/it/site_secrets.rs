//! `picket site secrets move`.

use std::{fs, os::unix::fs::PermissionsExt};

use crate::Picket;

#[tokio::test]
async fn credentials_in_headers_move_to_a_private_file_and_their_names_to_the_sites() {
    let picket = Picket::new().await;
    for arguments in [
        &[
            "https://api.example/a",
            "--header",
            "Authorization: Bearer MARK-bearer",
            "--header",
            "Accept: */*",
        ][..],
        &["https://api.example/b", "--header", "authorization: Basic bWU6TUFSSy1wYXNzIndvcmQ="],
        &["http://lan.example:8080/?token=MARK-url", "--header", "X-Api-Key: MARK-bearer"],
        &["https://api.example/c", "--header", "Cookie: a=1"],
        &["https://plain.example/"],
    ] {
        picket.run_ok(&[&["site", "add"], arguments].concat());
    }

    let plan = picket.run_ok(&["site", "secrets", "move"]);
    for part in [
        "site 1: header Authorization becomes options.auth.bearer with the secret 'api-example-authorization'\n",
        "site 2: header authorization becomes options.auth.basic with the secret 'api-example-authorization-2'\n",
        "site 3: header X-Api-Key becomes options.secret_headers with the secret 'lan-example-x-api-key'\n",
        "site 3: parameter 'token' of the URL looks like a credential",
        "site 4: header Cookie has a value of less than 6 bytes",
        "[secret.api-example-authorization]\nvalue_file = \"api-example-authorization\"\nhosts = [\"api.example\"]\n\n",
        "[secret.lan-example-x-api-key]\nvalue_file = \"lan-example-x-api-key\"\nhosts = [\"lan.example:8080\"]\n#",
        "insecure = true",
        "nothing was written or changed",
    ] {
        assert!(plan.contains(part), "{part}: {plan}");
    }
    assert!(!plan.contains("MARK"), "{plan}");

    let file = picket.dir().join("new.toml");
    let path = file.to_str().unwrap();
    picket.run_ok(&["site", "secrets", "move", "--write", path, "--dry-run"]);
    assert!(!file.exists());
    let written = picket.run_ok(&["site", "secrets", "move", "--write", path]);
    assert!(written.contains("wrote 3 values") && !written.contains("MARK"), "{written}");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(picket.run_rejected(&["site", "secrets", "move", "--write", path]).contains("could not create"));
    assert!(picket.run_ok(&["site", "list", "--output", "json"]).contains("MARK-bearer"));

    let would = picket.run_ok(&["site", "secrets", "move", "--apply", path, "--dry-run"]);
    assert!(would.contains("would change 3 sites") && !would.contains("MARK"), "{would}");
    let changed = picket.run_ok(&["site", "secrets", "move", "--apply", path]);
    assert!(changed.contains("changed 3 sites") && !changed.contains("MARK"), "{changed}");
    let listed = picket.run_ok(&["site", "list", "--output", "json"]).replace("MARK-url", "");
    assert!(!listed.contains("MARK") && !listed.contains("bWU6"), "{listed}");
    let compact: String = listed.split_whitespace().collect();
    for part in [
        r#""options":{"auth":{"bearer":{"secret":"api-example-authorization"}}}"#,
        r#""options":{"auth":{"basic":{"password":{"secret":"api-example-authorization-2"},"user":"me"}}}"#,
        r#""options":{"secret_headers":{"X-Api-Key":{"secret":"lan-example-x-api-key"}}}"#,
        r#""headers":{"Accept":"*/*"}"#,
    ] {
        assert!(compact.contains(part), "{part}: {listed}");
    }
    assert!(fs::read_to_string(&file).unwrap().contains("value = \"MARK-pass\\\"word\""));
    assert!(picket.run_ok(&["site", "secrets", "move", "1"]).contains("no header looks like a credential"));
}

#[tokio::test]
async fn no_site_changes_while_a_value_is_missing_from_the_file() {
    let picket = Picket::new().await;
    for (url, value) in [("https://a.example/", "MARK-first"), ("https://b.example/", "MARK-other")] {
        picket.run_ok(&["site", "add", url, "--header", &format!("X-Api-Key: {value}")]);
    }
    let file = picket.dir().join("s.toml");
    // The second value is there, but not for the host of its site.
    let text = "[secret.a]\nvalue = 'MARK-first'\nhosts = ['a.example']\n[secret.b]\nvalue = 'MARK-other'\nhosts = ['a.example']\n";
    fs::write(&file, text).unwrap();
    let path = file.to_str().unwrap();

    let refusal = picket.run_rejected(&["site", "secrets", "move", "--apply", path]);
    assert!(refusal.contains("mode 0644 is not allowed"), "{refusal}");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let refusal = picket.run_rejected(&["site", "secrets", "move", "--apply", path]);
    assert!(refusal.contains("header X-Api-Key of site 2 that may be sent to b.example"), "{refusal}");
    assert!(!refusal.contains("MARK"), "{refusal}");
    let listed = picket.run_ok(&["site", "list", "--output", "json"]);
    assert!(listed.contains("MARK-first") && listed.contains("MARK-other"), "{listed}");
}
