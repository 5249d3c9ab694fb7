use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
};

use tempfile::TempDir;

use super::*;

fn write(directory: &TempDir, name: &str, text: &str, mode: u32) -> PathBuf {
    let path = directory.path().join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

const SHOP: &str = "[secret.shop]\nvalue = \"shop-password\"\nhosts = [\"shop.example\"]\n";

#[test]
fn a_secret_is_for_its_hosts_by_verified_https() {
    let directory = TempDir::new().unwrap();
    let insecure = "[secret.lan]\nvalue = \"lan-password\"\nhosts = [\"lan.example\"]\ninsecure = true\n[secret.none]\nvalue = \"no-hosts\"\n";
    let secrets = Secrets::load(&write(&directory, "s.toml", &format!("{SHOP}{insecure}"), 0o600)).unwrap();
    let ask = |name, to: &str, verified| {
        secrets.value_for(name, &url(to), verified).map(|value| value.expose_text().to_owned())
    };

    assert_eq!(ask("shop", "https://shop.example/x", true).unwrap(), "shop-password");
    assert_eq!(ask("lan", "http://lan.example/", true).unwrap(), "lan-password");
    assert_eq!(ask("lan", "https://lan.example/", false).unwrap(), "lan-password");
    for (name, to, verified, message) in [
        (
            "shop",
            "https://evil.example/",
            true,
            "secret 'shop' may not be sent to evil.example:443, which is not among its hosts",
        ),
        (
            "shop",
            "https://shop.example:8443/",
            true,
            "secret 'shop' may not be sent to shop.example:8443, which is not among its hosts",
        ),
        ("shop", "http://shop.example/", true, "secret 'shop' may not be sent without https"),
        ("shop", "https://shop.example/", false, "secret 'shop' may not be sent without https"),
        ("none", "https://shop.example/", true, "secret 'none' may not be sent to shop.example:443"),
        ("shopp", "https://shop.example/", true, "secret 'shopp' is not in the secrets file"),
    ] {
        let refusal = ask(name, to, verified).unwrap_err().to_string();
        assert!(refusal.starts_with(message), "{refusal}");
    }
    let none = Secrets::none().value_for("shop", &url("https://shop.example/"), true).unwrap_err();
    assert!(none.to_string().contains("there is no secrets file (PICKET_SECRETS_FILE)"), "{none}");
}

#[test]
fn a_url_is_a_secret_with_its_own_host_and_its_path_is_redacted_as_well() {
    let directory = TempDir::new().unwrap();
    let text = "[secret.hook]\nvalue = \"https://hooks.example/services/T0000000/abcdefghijklmnopqrst?key=abcdefgh-ijklmnop\"\n\
        hosts = [\"hooks.example\"]\n\
        [secret.other]\nvalue = \"https://evil.example/a/path\"\nhosts = [\"hooks.example\"]\n\
        [secret.plain]\nvalue = \"http://hooks.example/a/path\"\nhosts = [\"hooks.example\"]\n\
        [secret.word]\nvalue = \"no-address\"\nhosts = [\"hooks.example\"]\n";
    let secrets = Secrets::load(&write(&directory, "s.toml", text, 0o600)).unwrap();

    assert_eq!(secrets.url_for("hook").unwrap().path(), "/services/T0000000/abcdefghijklmnopqrst");
    for (name, why) in [
        ("other", "may not be sent to evil.example:443"),
        ("plain", "without https"),
        ("word", "is unusable: it is no http or https URL"),
        ("absent", "is not in the secrets file"),
    ] {
        let refusal = secrets.url_for(name).unwrap_err().to_string();
        assert!(refusal.contains(why) && !refusal.contains("no-address"), "{refusal}");
    }
    for text in [
        "POST /services/T0000000/abcdefghijklmnopqrst?key=abcdefgh-ijklmnop failed",
        "abcdefghijklmnopqrst is unknown",
        "key abcdefgh-ijklmnop is unknown",
    ] {
        let shown = redact(text).into_owned();
        assert!(shown.contains("[redacted]") && !shown.contains("mnop"), "{shown}");
    }
    assert_eq!(redact("GET /services/"), "GET /services/");
}

#[test]
fn a_file_that_others_may_read_is_refused_with_its_mode() {
    let directory = TempDir::new().unwrap();
    for mode in [0o644, 0o640, 0o604, 0o660, 0o610] {
        let path = write(&directory, "s.toml", SHOP, mode);
        let refusal = Secrets::load(&path).unwrap_err().to_string();
        assert!(refusal.contains(&format!("mode {mode:04o} is not allowed; allowed: 0600")), "{refusal}");
    }
    write(&directory, "value", "shop-password\n", 0o644);
    let by_file = "\n[secret.shop]\nvalue_file = \"value\"\n";
    let refusal = Secrets::load(&write(&directory, "s.toml", by_file, 0o600)).unwrap_err().to_string();
    assert!(
        refusal.contains("line 2: secret.shop: value: file '") && refusal.contains("mode 0644"),
        "{refusal}"
    );
    Secrets::load(&write(&directory, "s.toml", SHOP, 0o400)).unwrap();
}

#[test]
fn a_fifo_a_directory_and_a_missing_file_are_refused_at_once() {
    let directory = TempDir::new().unwrap();
    let fifo = directory.path().join("fifo");
    let mode = rustix::fs::Mode::from(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();

    for path in [fifo, directory.path().to_owned(), directory.path().join("absent")] {
        Secrets::load(&path).unwrap_err();
    }
}

#[test]
fn values_proxies_and_authorities_come_from_files_without_their_last_line_feed() {
    let directory = TempDir::new().unwrap();
    write(&directory, "value", "shop password \r\n", 0o600);
    write(&directory, "ca.pem", "a certificate\n", 0o644);
    let text = "[secret.shop]\nvalue_file = \"value\"\nhosts = [\"shop.example\"]\n[ca.own]\nfile = \"ca.pem\"\n\
                [proxy.office]\nurl = \"http://proxy.example:3128\"\nuser = \"me\"\npassword = \"proxy-password\"\n";
    let secrets = Secrets::load(&write(&directory, "s.toml", text, 0o600)).unwrap();

    let value = secrets.value_for("shop", &url("https://shop.example/"), true).unwrap();
    assert_eq!(value.expose_text(), "shop password ");
    assert_eq!(&*secrets.authority("own").unwrap(), "a certificate\n");
    let (user, password) = secrets.proxy("office").unwrap().login.unwrap();
    assert_eq!((user.as_str(), password.expose_text()), ("me", "proxy-password"));
    assert_eq!(redact("shop password  and proxy-password"), "[redacted] and [redacted]");
    let names: Vec<_> = secrets
        .summaries()
        .into_iter()
        .map(|entry| format!("{} {} {:?}", entry.kind, entry.name, entry.hosts))
        .collect();
    assert_eq!(
        names,
        ["secret shop [\"shop.example\"]", "proxy office [\"http://proxy.example:3128/\"]", "ca own []"]
    );
}

#[test]
fn a_changed_file_is_reloaded_and_a_broken_one_leaves_the_last_good_content() {
    let directory = TempDir::new().unwrap();
    let value = write(&directory, "value", "first-value", 0o600);
    let path =
        write(&directory, "s.toml", "[secret.a]\nvalue_file = \"value\"\nhosts = [\"a.example\"]\n", 0o600);
    let secrets = Secrets::load(&path).unwrap();
    let ask = || secrets.value_for("a", &url("https://a.example/"), true).unwrap().expose_text().to_owned();

    assert_eq!(secrets.reload_if_changed(), ReloadOutcome::Unchanged);
    fs::write(&value, "second-value").unwrap();
    assert_eq!(secrets.reload_if_changed(), ReloadOutcome::Reloaded);
    assert_eq!((ask().as_str(), secrets.generation()), ("second-value", 1));
    assert_eq!(redact("first-value second-value"), "[redacted] [redacted]", "a running check has the first");

    fs::write(&path, "[secret.a]\nvalue = third").unwrap();
    let ReloadOutcome::Refused(why) = secrets.reload_if_changed() else { panic!("not refused") };
    assert!(why.to_string().contains("line 2: not TOML"), "{why}");
    assert_eq!(secrets.reload_if_changed(), ReloadOutcome::Unchanged, "one refusal for one change");
    assert_eq!(ask(), "second-value");
    fs::remove_file(&path).unwrap();
    assert!(matches!(secrets.reload_if_changed(), ReloadOutcome::Refused(_)));
    assert_eq!(ask(), "second-value");

    let other = write(
        &directory,
        "other.toml",
        "[secret.a]\nvalue = \"third-value\"\nhosts = [\"a.example\"]\n",
        0o600,
    );
    symlink(&other, &path).unwrap();
    assert_eq!(secrets.reload_if_changed(), ReloadOutcome::Reloaded);
    assert_eq!(ask(), "third-value");
}

#[test]
fn a_broken_file_of_values_is_reported_once_and_its_repair_is_noticed() {
    let directory = TempDir::new().unwrap();
    let value = write(&directory, "value", "first-value", 0o600);
    let path = write(&directory, "s.toml", "[secret.a]\nvalue_file = \"value\"\n", 0o600);
    let secrets = Secrets::load(&path).unwrap();

    fs::remove_file(&value).unwrap();
    assert!(matches!(secrets.reload_if_changed(), ReloadOutcome::Refused(_)));
    assert_eq!(secrets.reload_if_changed(), ReloadOutcome::Unchanged);
    write(&directory, "value", "second-value", 0o600);
    assert_eq!(secrets.reload_if_changed(), ReloadOutcome::Reloaded);
}

#[test]
fn a_credential_of_the_service_manager_may_be_readable_by_an_acl() {
    let directory = TempDir::new().unwrap();
    let path = write(&directory, "picket-secrets.toml", SHOP, 0o440);

    let (loaded, _) = LoadedSecrets::load(&path, Some(directory.path()));
    assert_eq!(loaded.unwrap().secrets.len(), 1);
    LoadedSecrets::load(&path, None).0.unwrap_err();
}

#[test]
fn a_value_in_a_log_line_is_redacted_in_both_formats() {
    use std::io::Write;

    use crate::telemetry::SanitizingWriter;

    let directory = TempDir::new().unwrap();
    let text = "[secret.shop]\nvalue = 'logged \"password\"'\n";
    let _secrets = Secrets::load(&write(&directory, "s.toml", text, 0o600)).unwrap();
    let (mut json, mut pretty) = (Vec::new(), Vec::new());

    let line = "{\"message\":\"sent logged \\\"password\\\" to x\",\"url\":\"http://x/?q=logged%20%22password%22\"}\n";
    SanitizingWriter::for_json(&mut json).write_all(line.as_bytes()).unwrap();
    SanitizingWriter::for_terminal(&mut pretty).write_all(b"sent logged \"password\" to x\n").unwrap();

    assert_eq!(json, b"{\"message\":\"sent [redacted] to x\",\"url\":\"http://x/?q=[redacted]\"}\n");
    assert_eq!(pretty, b"sent [redacted] to x\n");
}

#[test]
fn the_texts_in_details_are_redacted_at_every_depth() {
    let directory = TempDir::new().unwrap();
    let text = "[secret.shop]\nvalue = 'detailed-password'\n[secret.pin]\nvalue = '79797979'\n";
    let _secrets = Secrets::load(&write(&directory, "s.toml", text, 0o600)).unwrap();
    let details = serde_json::json!({"a": ["x detailed-password", {"detailed-password": true}], "b": 79_797_979, "c": 7});

    let redacted = redact_json(details);

    assert_eq!(
        redacted,
        serde_json::json!({"a": ["x [redacted]", {"[redacted]": true}], "b": "[redacted]", "c": 7})
    );
}
