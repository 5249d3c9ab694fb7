//! The secrets file: TOML, with a table for each secret, proxy and certificate authority.
//!
//! Errors name the line and the field, and never a value.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};
use url::Url;

use super::{SecretValue, SecretsError, host_rule::HostRule};

/// Minimum length of a value. A shorter one could not be redacted without spoiling other texts.
pub(super) const MIN_VALUE_BYTES: usize = 6;
/// Maximum number of entries of one kind.
const MAX_ENTRIES: usize = 1_000;
/// Maximum length of a name.
const MAX_NAME_BYTES: usize = 64;

/// Content of a secrets file. Values in other files are not read yet.
#[derive(Debug, Default)]
pub(super) struct SecretsFile {
    pub(super) secrets: BTreeMap<String, SecretEntry>,
    pub(super) proxies: BTreeMap<String, ProxyEntry>,
    pub(super) authorities: BTreeMap<String, AuthorityEntry>,
}

/// Table `[secret.NAME]`.
#[derive(Debug)]
pub(super) struct SecretEntry {
    pub(super) line: usize,
    pub(super) source: ValueSource,
    pub(super) hosts: Vec<HostRule>,
    pub(super) insecure: bool,
}

/// Table `[proxy.NAME]`.
#[derive(Debug)]
pub(super) struct ProxyEntry {
    pub(super) line: usize,
    pub(super) url: Url,
    pub(super) user: Option<String>,
    pub(super) password: Option<ValueSource>,
}

/// Table `[ca.NAME]`.
#[derive(Debug)]
pub(super) struct AuthorityEntry {
    pub(super) line: usize,
    pub(super) file: PathBuf,
}

/// Place of a value.
#[derive(Debug)]
pub(super) enum ValueSource {
    File(PathBuf),
    Environment(String),
    Inline(SecretValue),
}

impl SecretsFile {
    /// Parses `text`, the content of the file at `path`. Relative paths in it start at the
    /// directory of the file.
    ///
    /// # Errors
    /// Names the line and the field.
    pub(super) fn parse(text: &str, path: &Path) -> Result<Self, SecretsError> {
        let reader = Reader { text, path };
        // The error's own text would contain the line, and with it a value.
        let root = DeTable::parse(text).map_err(|why| {
            reader.refuse(why.span().unwrap_or_default(), format!("not TOML: {}", why.message()))
        })?;
        let mut file = Self::default();
        for (kind, tables) in root.get_ref() {
            let span = kind.span();
            let Some(tables) = tables.get_ref().as_table() else {
                return Err(reader.refuse(span, format!("'{}' is not allowed; {KINDS}", kind.get_ref())));
            };
            if tables.len() > MAX_ENTRIES {
                return Err(
                    reader.refuse(span, format!("{} entries; allowed: at most {MAX_ENTRIES}", tables.len()))
                );
            }
            for (name, entry) in tables {
                let table = Table::new(&reader, kind, name, entry)?;
                let name = name.get_ref().to_string();
                match kind.get_ref().as_ref() {
                    "secret" => drop(file.secrets.insert(name, table.read_secret()?)),
                    "proxy" => drop(file.proxies.insert(name, table.read_proxy()?)),
                    "ca" => drop(file.authorities.insert(name, table.read_authority()?)),
                    other => return Err(reader.refuse(span, format!("'{other}' is not allowed; {KINDS}"))),
                }
            }
        }
        Ok(file)
    }
}

const KINDS: &str = "allowed: tables [secret.NAME], [proxy.NAME] and [ca.NAME]";

/// Text and path of the file, for errors.
struct Reader<'t> {
    text: &'t str,
    path: &'t Path,
}

impl Reader<'_> {
    fn line_of(&self, span: &Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    fn refuse(&self, span: Range<usize>, why: String) -> SecretsError {
        SecretsError::at_line(self.path, self.line_of(&span), why)
    }
}

/// One table `[kind.name]`.
struct Table<'a, 'i> {
    reader: &'a Reader<'a>,
    /// Such as `secret.shop-api`.
    name: String,
    span: Range<usize>,
    fields: &'a DeTable<'i>,
}

impl<'a, 'i> Table<'a, 'i> {
    fn new(
        reader: &'a Reader<'a>,
        kind: &Spanned<toml::de::DeString<'i>>,
        name: &Spanned<toml::de::DeString<'i>>,
        entry: &'a Spanned<DeValue<'i>>,
    ) -> Result<Self, SecretsError> {
        let refuse = |why: String| reader.refuse(name.span(), why);
        let (kind, word) = (kind.get_ref(), name.get_ref());
        let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if word.is_empty() || word.len() > MAX_NAME_BYTES || !word.bytes().all(is_letter) {
            let allowed = "1 to 64 lower-case letters, digits and '-'";
            return Err(refuse(format!("{kind}: the name '{word}' is not allowed; allowed: {allowed}")));
        }
        let Some(fields) = entry.get_ref().as_table() else {
            // `[secret]` with `name = "value"`, which a reader of the error must not see.
            return Err(refuse(format!(
                "{kind}.{word}: not a table; allowed: [{kind}.{word}] with its fields"
            )));
        };
        Ok(Self { reader, name: format!("{kind}.{word}"), span: name.span(), fields })
    }

    fn read_secret(&self) -> Result<SecretEntry, SecretsError> {
        self.reject_unknown(&["value", "value_env", "value_file", "hosts", "insecure"])?;
        let source = self.read_source("value")?.ok_or_else(|| {
            self.refuse(self.span.clone(), "no value; needed: one of value_file, value_env and value")
        })?;
        Ok(SecretEntry {
            line: self.line(),
            source,
            hosts: self.read_hosts()?,
            insecure: self.read_flag("insecure")?,
        })
    }

    fn read_proxy(&self) -> Result<ProxyEntry, SecretsError> {
        self.reject_unknown(&["url", "user", "password", "password_env", "password_file"])?;
        let allowed = "an http URL of a host and a port, such as http://proxy.example:3128";
        let (text, span) = self
            .read_text("url")?
            .ok_or_else(|| self.refuse(self.span.clone(), format!("no url; needed: {allowed}")))?;
        let url = Url::parse(text).ok().filter(|url| {
            let has_login = !url.username().is_empty() || url.password().is_some();
            url.scheme() == "http" && !has_login && url.path() == "/" && url.query().is_none()
        });
        // The text may contain a password and is not repeated.
        let url = url.ok_or_else(|| {
            self.refuse(
                span,
                format!("url is not allowed; allowed: {allowed}, with user and password in fields"),
            )
        })?;
        let user = self.read_text("user")?.map(|(user, span)| match user.contains(':') {
            true => Err(self.refuse(span, "user contains ':', which ends the user name")),
            false => Ok(user.to_owned()),
        });
        let (user, password) = (user.transpose()?, self.read_source("password")?);
        if user.is_none() && password.is_some() {
            return Err(self.refuse(self.span.clone(), "a password without user"));
        }
        Ok(ProxyEntry { line: self.line(), url, user, password })
    }

    fn read_authority(&self) -> Result<AuthorityEntry, SecretsError> {
        self.reject_unknown(&["file"])?;
        let needed = "no file; needed: the path of a PEM file with certificates";
        let (file, _) = self.read_text("file")?.ok_or_else(|| self.refuse(self.span.clone(), needed))?;
        Ok(AuthorityEntry { line: self.line(), file: self.resolve_path(file) })
    }

    /// Reads the fields `NAME`, `NAME_env` and `NAME_file`, of which one at most may be present.
    fn read_source(&self, name: &str) -> Result<Option<ValueSource>, SecretsError> {
        let mut sources = Vec::new();
        if let Some((value, span)) = self.read_text(name)? {
            check_value(value).map_err(|why| self.refuse(span, format!("{name}: {why}")))?;
            sources.push(ValueSource::Inline(SecretValue::new(value.to_owned())));
        }
        if let Some((variable, _)) = self.read_text(&format!("{name}_env"))? {
            sources.push(ValueSource::Environment(variable.to_owned()));
        }
        if let Some((file, _)) = self.read_text(&format!("{name}_file"))? {
            sources.push(ValueSource::File(self.resolve_path(file)));
        }
        if sources.len() > 1 {
            let why = format!("several values; allowed: one of {name}_file, {name}_env and {name}");
            return Err(self.refuse(self.span.clone(), why));
        }
        Ok(sources.pop())
    }

    fn read_hosts(&self) -> Result<Vec<HostRule>, SecretsError> {
        let Some((_, value)) = self.find("hosts") else { return Ok(Vec::new()) };
        let list =
            value.get_ref().as_array().ok_or_else(|| self.wrong_type("hosts", value, "a list of hosts"))?;
        let rules = list.iter().map(|item| {
            let text = item.get_ref().as_str().ok_or_else(|| self.wrong_type("hosts", item, "a text"))?;
            text.parse().map_err(|why| self.refuse(item.span(), format!("hosts: {why}")))
        });
        rules.collect()
    }

    fn read_text(&self, field: &str) -> Result<Option<(&'a str, Range<usize>)>, SecretsError> {
        let Some((_, value)) = self.find(field) else { return Ok(None) };
        match value.get_ref().as_str() {
            Some("") => Err(self.refuse(value.span(), format!("{field} is empty"))),
            Some(text) => Ok(Some((text, value.span()))),
            None => Err(self.wrong_type(field, value, "a text in quotation marks")),
        }
    }

    fn read_flag(&self, field: &str) -> Result<bool, SecretsError> {
        let Some((_, value)) = self.find(field) else { return Ok(false) };
        value.get_ref().as_bool().ok_or_else(|| self.wrong_type(field, value, "true or false"))
    }

    fn find(&self, field: &str) -> Option<(&'a Spanned<toml::de::DeString<'i>>, &'a Spanned<DeValue<'i>>)> {
        self.fields.iter().find(|(name, _)| name.get_ref() == field)
    }

    fn reject_unknown(&self, known: &[&str]) -> Result<(), SecretsError> {
        match self.fields.keys().find(|name| !known.contains(&name.get_ref().as_ref())) {
            Some(name) => Err(self.refuse(
                name.span(),
                format!("'{}' is not allowed; allowed: {}", name.get_ref(), known.join(", ")),
            )),
            None => Ok(()),
        }
    }

    fn wrong_type(&self, field: &str, value: &Spanned<DeValue<'_>>, allowed: &str) -> SecretsError {
        self.refuse(
            value.span(),
            format!("{field} is of type {}; allowed: {allowed}", value.get_ref().type_str()),
        )
    }

    fn refuse(&self, span: Range<usize>, why: impl AsRef<str>) -> SecretsError {
        self.reader.refuse(span, format!("{}: {}", self.name, why.as_ref()))
    }

    fn line(&self) -> usize {
        self.reader.line_of(&self.span)
    }

    fn resolve_path(&self, file: &str) -> PathBuf {
        self.reader.path.parent().unwrap_or(Path::new("")).join(file)
    }
}

/// Checks the length and the characters of a value. The error does not contain the value.
pub(super) fn check_value(value: &str) -> Result<(), String> {
    if value.len() < MIN_VALUE_BYTES {
        return Err(format!(
            "a value of {} bytes is not allowed; allowed: at least {MIN_VALUE_BYTES}",
            value.len()
        ));
    }
    match value.contains('\0') {
        true => Err("the value contains a zero byte".to_owned()),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<SecretsFile, String> {
        SecretsFile::parse(text, Path::new("/etc/picket/secrets.toml")).map_err(|why| why.to_string())
    }

    #[test]
    fn a_file_has_secrets_proxies_and_authorities() {
        let file = parse(
            r#"
            [secret.shop-api]
            value_file = "shop"
            hosts = ["api.shop.example", "*.shop.example:8443"]
            [secret.other]
            value = "not-so-secret"
            insecure = true
            [proxy.office]
            url = "http://proxy.example:3128"
            user = "picket"
            password_env = "PROXY_PASSWORD"
            [ca.internal]
            file = "/etc/ca.pem"
            "#,
        )
        .unwrap();

        let shop = &file.secrets["shop-api"];
        assert!(matches!(&shop.source, ValueSource::File(path) if path == Path::new("/etc/picket/shop")));
        assert_eq!(
            shop.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            "api.shop.example *.shop.example:8443"
        );
        assert!(file.secrets["other"].insecure && file.secrets["other"].hosts.is_empty());
        assert!(
            matches!(&file.proxies["office"].password, Some(ValueSource::Environment(name)) if name == "PROXY_PASSWORD")
        );
        assert_eq!(file.authorities["internal"].file, Path::new("/etc/ca.pem"));
    }

    /// Each text has the mark where a careless user would put a value.
    #[test]
    fn an_error_names_the_line_and_the_field_and_never_a_value() {
        for (text, line, why) in [
            ("[secret.a]\nvalue = MARK123", 2, "not TOML"),
            ("[secret.a]\nvalue = \"MARK123", 2, "not TOML"),
            ("[secret.a]\nvalue = \"MARK123\\q\"", 2, "not TOML"),
            ("[secret.a]\nvalue = \"MARK123\"\nvalue = \"MARK123\"", 3, "not TOML"),
            ("[secret.a]\nMARK123", 2, "not TOML"),
            ("[secret]\na = \"MARK123\"", 2, "secret.a: not a table"),
            ("[secret.a]\nvalue = [\"MARK123\"]", 2, "secret.a: value is of type array"),
            ("[secret.a]\nvalue = 12345678", 2, "value is of type integer"),
            ("[secret.a]\nvalue = \"MARK1\"", 2, "secret.a: value: a value of 5 bytes"),
            ("[secret.a]\nvalue = \"\"", 2, "secret.a: value is empty"),
            ("\n[secret.a]\nhosts = []", 2, "secret.a: no value; needed: one of value_file"),
            ("[secret.a]\nvalue = \"MARK123\"\nvalue_env = \"X\"", 1, "secret.a: several values"),
            ("[secret.a]\nvalue = \"MARK123\"\nhost = [\"x\"]", 3, "'host' is not allowed; allowed: value"),
            ("[secret.a]\nvalue = \"MARK123\"\nhosts = \"x\"", 3, "hosts is of type string"),
            ("[secret.a]\nvalue = \"MARK123\"\nhosts = [\n\"x\",\n\"*\"]", 5, "hosts: '*' is not allowed"),
            ("[secret.a]\nvalue = \"MARK123\"\ninsecure = \"MARK123\"", 3, "insecure is of type string"),
            ("[secret.A]\nvalue = \"MARK123\"", 1, "the name 'A' is not allowed"),
            (
                "[secrets.a]\nvalue = \"MARK123\"",
                1,
                "'secrets' is not allowed; allowed: tables [secret.NAME]",
            ),
            ("value = \"MARK123\"", 1, "'value' is not allowed"),
            ("[proxy.a]\nurl = \"http://u:MARK123@proxy.example\"", 2, "proxy.a: url is not allowed"),
            (
                "[proxy.a]\nurl = \"http://proxy.example\"\npassword = \"MARK123\"",
                1,
                "a password without user",
            ),
            ("[ca.a]", 1, "ca.a: no file"),
        ] {
            let error = parse(text).unwrap_err();
            let start = format!("secrets file '/etc/picket/secrets.toml', line {line}: ");
            assert!(error.starts_with(&start) && error.contains(why), "{text}: {error}");
            assert!(!error.contains("MARK") && !error.contains("1234"), "{text}: {error}");
        }
    }
}
