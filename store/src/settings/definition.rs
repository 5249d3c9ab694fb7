//! Definitions of the settings: name, kind, default and meaning of each.
//!
//! Commands, options and documents are derived from this table. The ranges repeat the constraints
//! of the database, so that a refusal can name what is allowed; a test compares the two.

use std::{fmt, time::Duration};

use picket_proto::{ValidationError, byte_size::ByteSize, duration::DurationArg};
use tracing::warn;

use super::Settings;

/// Definition of a setting.
#[derive(Debug)]
pub struct SettingDefinition {
    /// Name, also of the column.
    pub name: &'static str,
    /// Option of `picket migrate` and `picket up`; `None` for what has no initial value.
    pub option: Option<&'static str>,
    /// Variable of that option.
    pub variable: &'static str,
    /// Kind and range of the value.
    pub kind: SettingKind,
    /// Value in a new database; `None` if each database has its own.
    pub default: Option<SettingValue>,
    /// Meaning in one sentence.
    pub meaning: &'static str,
    /// Reads the value.
    pub read: fn(&Settings) -> SettingValue,
}

/// Kind of a setting, with the inclusive range of its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingKind {
    /// Whole number.
    Number(i64, i64),
    /// Duration in whole milliseconds.
    Duration(Duration, Duration),
    /// Duration in whole seconds.
    Seconds(Duration, Duration),
    /// Number of bytes.
    Bytes(u64, u64),
    /// True or false.
    Flag,
    /// URL with http or https; empty for none.
    Url,
    /// Made with the database, never changed.
    Fixed,
}

/// Value of a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingValue {
    /// Whole number.
    Number(i64),
    /// Duration.
    Duration(Duration),
    /// Number of bytes.
    Bytes(u64),
    /// True or false.
    Flag(bool),
    /// Text; `None` for none.
    Text(Option<String>),
}

const DAY: Duration = Duration::from_secs(86_400);
const MAX_URL_BYTES: usize = 2_048;

/// All settings, in the order of `picket settings list`.
pub static SETTINGS: [SettingDefinition; 14] = [
    SettingDefinition {
        name: "min_interval",
        option: Some("min-interval"),
        variable: "PICKET_MIN_INTERVAL",
        kind: SettingKind::Seconds(Duration::from_secs(1), DAY),
        default: Some(SettingValue::Duration(Duration::from_secs(5))),
        meaning: "Shortest check interval that a site may have",
        read: |settings| SettingValue::Duration(settings.intervals.min),
    },
    SettingDefinition {
        name: "max_interval",
        option: Some("max-interval"),
        variable: "PICKET_MAX_INTERVAL",
        kind: SettingKind::Seconds(Duration::from_secs(1), DAY),
        default: Some(SettingValue::Duration(DAY)),
        meaning: "Longest check interval that a site may have",
        read: |settings| SettingValue::Duration(settings.intervals.max),
    },
    SettingDefinition {
        name: "batch_delay",
        option: Some("batch-delay"),
        variable: "PICKET_BATCH_DELAY",
        kind: SettingKind::Duration(Duration::from_millis(10), Duration::from_millis(500)),
        default: Some(SettingValue::Duration(Duration::from_millis(250))),
        meaning: "Maximum time for which a due job waits to be published together with others, in \
                  whole hundredths of a second; lower values make checks more punctual and cost CPU",
        read: |settings| SettingValue::Duration(settings.batch_delay),
    },
    SettingDefinition {
        name: "lease_time",
        option: Some("lease-time"),
        variable: "PICKET_LEASE_TIME",
        kind: SettingKind::Duration(Duration::from_secs(3), Duration::from_secs(300)),
        default: Some(SettingValue::Duration(Duration::from_secs(15))),
        meaning: "Time after which a shard's lease expires unless renewed: the time to replace a \
                  coordinator that died",
        read: |settings| SettingValue::Duration(settings.lease_time),
    },
    SettingDefinition {
        name: "ledger_grace",
        option: Some("ledger-grace"),
        variable: "PICKET_LEDGER_GRACE",
        kind: SettingKind::Duration(Duration::from_secs(10), Duration::from_secs(3_600)),
        default: Some(SettingValue::Duration(Duration::from_secs(150))),
        meaning: "Time after a tick until its ledger is closed; a tick without a result is then \
                  recorded as missed, and a later result still replaces that row",
        read: |settings| SettingValue::Duration(settings.ledger_grace),
    },
    SettingDefinition {
        name: "retention_days",
        option: Some("retention-days"),
        variable: "PICKET_RETENTION_DAYS",
        kind: SettingKind::Number(1, 3_650),
        default: Some(SettingValue::Number(30)),
        meaning: "Days for which results are kept, and everything else that is not a report; older \
                  results become dead letters",
        read: |settings| SettingValue::Number(settings.retention.result_days.into()),
    },
    SettingDefinition {
        name: "rollup_hours_days",
        option: Some("rollup-hours-days"),
        variable: "PICKET_ROLLUP_HOURS_DAYS",
        kind: SettingKind::Number(1, 36_500),
        default: Some(SettingValue::Number(730)),
        meaning: "Days for which hourly rollups are kept, removed by the month; at least \
                  retention_days",
        read: |settings| SettingValue::Number(settings.retention.rollup_hours_days.into()),
    },
    SettingDefinition {
        name: "rollup_days_days",
        option: Some("rollup-days-days"),
        variable: "PICKET_ROLLUP_DAYS_DAYS",
        kind: SettingKind::Number(1, 36_500),
        default: Some(SettingValue::Number(730)),
        meaning: "Days for which daily rollups are kept, with failures, certificates and notifications; at \
                  least rollup_hours_days",
        read: |settings| SettingValue::Number(settings.retention.rollup_days_days.into()),
    },
    SettingDefinition {
        name: "stream_replicas",
        option: Some("stream-replicas"),
        variable: "PICKET_STREAM_REPLICAS",
        kind: SettingKind::Number(1, 5),
        default: Some(SettingValue::Number(1)),
        meaning: "Copies of each stream that the NATS servers keep: 1 on a single server, 3 on a \
                  cluster",
        read: |settings| SettingValue::Number(i64::try_from(settings.stream_replicas).unwrap_or(1)),
    },
    SettingDefinition {
        name: "results_max_bytes",
        option: Some("results-max-bytes"),
        variable: "PICKET_RESULTS_MAX_BYTES",
        kind: SettingKind::Bytes(1 << 20, 64 << 40),
        default: Some(SettingValue::Bytes(8 << 30)),
        meaning: "Maximum size of the results stream on each server that keeps it; when unstored \
                  results reach four fifths of it, no jobs are published until sinks catch up",
        read: |settings| SettingValue::Bytes(settings.results_max_bytes.unsigned_abs()),
    },
    SettingDefinition {
        name: "public_url",
        option: Some("public-url"),
        variable: "PICKET_PUBLIC_URL",
        kind: SettingKind::Url,
        default: Some(SettingValue::Text(None)),
        meaning: "URL under which people reach this installation, for links; empty for none",
        read: |settings| SettingValue::Text(settings.public_url.clone()),
    },
    SettingDefinition {
        name: "require_tickets",
        option: None,
        variable: "",
        kind: SettingKind::Flag,
        default: Some(SettingValue::Flag(true)),
        meaning: "Whether sinks reject results without the ticket of their job",
        read: |settings| SettingValue::Flag(settings.require_tickets),
    },
    SettingDefinition {
        name: "shards",
        option: None,
        variable: "",
        kind: SettingKind::Fixed,
        default: Some(SettingValue::Number(64)),
        meaning: "Number of shards that divide the sites, fixed by the first 'picket migrate \
                  --shards'",
        read: |settings| SettingValue::Number(settings.shards.into()),
    },
    SettingDefinition {
        name: "installation_id",
        option: None,
        variable: "",
        kind: SettingKind::Fixed,
        default: None,
        meaning: "Identity of this installation, a UUID made with the database",
        read: |settings| SettingValue::Text(Some(settings.installation_id.to_string())),
    },
];

/// Variables that set these values for one process in earlier versions, and the settings that
/// replace them. A process ignores them with a warning.
const RETIRED_VARIABLES: [(&str, &str); 9] = [
    ("PICKET_MIN_INTERVAL", "min_interval"),
    ("PICKET_MAX_INTERVAL", "max_interval"),
    ("PICKET_GATHER", "batch_delay"),
    ("PICKET_LEASE_TIME", "lease_time"),
    ("PICKET_LEDGER_GRACE", "ledger_grace"),
    ("PICKET_RETENTION_DAYS", "retention_days"),
    ("PICKET_ROLLUP_DAYS", "rollup_hours_days"),
    ("PICKET_REPLICAS", "stream_replicas"),
    ("PICKET_RESULTS_MAX_BYTES", "results_max_bytes"),
];

/// The retired variables that are set for this process, each with the command that replaces it.
pub fn given_retired_variables() -> impl Iterator<Item = (&'static str, String)> {
    let given = RETIRED_VARIABLES.into_iter().filter(|(variable, _)| std::env::var_os(variable).is_some());
    given.map(|(variable, setting)| (variable, format!("picket settings set {setting} VALUE")))
}

/// Logs a warning for each of the retired variables that is set for this process.
pub fn warn_retired_variables() {
    for (variable, command) in given_retired_variables() {
        warn!(variable, command, "variable ignored, a setting of the database replaces it");
    }
}

impl SettingDefinition {
    /// Finds a setting by its name.
    ///
    /// # Errors
    /// If there is no such setting.
    pub fn find(name: &str) -> Result<&'static Self, ValidationError> {
        SETTINGS.iter().find(|definition| definition.name == name).ok_or_else(|| {
            let names: Vec<&str> = SETTINGS.iter().map(|definition| definition.name).collect();
            ValidationError::new("setting", name, names.join(", "))
        })
    }

    /// Parses and checks a value as people type it, such as `15`, `30s`, `8GiB` or `true`.
    ///
    /// # Errors
    /// If it is not allowed; names what is allowed.
    pub fn parse(&self, text: &str) -> Result<SettingValue, ValidationError> {
        let value = match self.kind {
            SettingKind::Number(..) => text.trim().parse().ok().map(SettingValue::Number),
            SettingKind::Duration(..) | SettingKind::Seconds(..) => {
                text.parse::<DurationArg>().ok().map(|duration| SettingValue::Duration(duration.0))
            }
            SettingKind::Bytes(..) => text.parse::<ByteSize>().ok().map(|size| SettingValue::Bytes(size.0)),
            SettingKind::Flag => text.trim().parse().ok().map(SettingValue::Flag),
            SettingKind::Url => {
                Some(SettingValue::Text(Some(text.to_owned()).filter(|text| !text.is_empty())))
            }
            SettingKind::Fixed => None,
        };
        let refusal = || ValidationError::new(self.name, text, self.kind.allowed());
        let value = value.ok_or_else(refusal)?;
        self.check(&value).map_err(|_| refusal())?;
        Ok(value)
    }

    /// Checks that `value` is allowed.
    ///
    /// # Errors
    /// If it is not; names what is allowed.
    pub fn check(&self, value: &SettingValue) -> Result<(), ValidationError> {
        let is_allowed = match (self.kind, value) {
            (SettingKind::Number(min, max), SettingValue::Number(number)) => (min..=max).contains(number),
            (SettingKind::Duration(min, max), SettingValue::Duration(duration)) => {
                (min..=max).contains(duration) && duration.subsec_nanos().is_multiple_of(1_000_000)
            }
            (SettingKind::Seconds(min, max), SettingValue::Duration(duration)) => {
                (min..=max).contains(duration) && duration.subsec_nanos() == 0
            }
            (SettingKind::Bytes(min, max), SettingValue::Bytes(bytes)) => (min..=max).contains(bytes),
            (SettingKind::Flag, SettingValue::Flag(_)) | (SettingKind::Url, SettingValue::Text(None)) => true,
            (SettingKind::Url, SettingValue::Text(Some(url))) => is_public_url(url),
            _ => false,
        };
        match is_allowed {
            true => Ok(()),
            false => Err(ValidationError::new(self.name, value, self.kind.allowed())),
        }
    }
}

/// As the constraint of the database: a host, and a path without query and fragment.
fn is_public_url(url: &str) -> bool {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    rest.is_some_and(|rest| {
        !rest.is_empty()
            && !rest.starts_with('/')
            && url.len() <= MAX_URL_BYTES
            && !rest.contains(|letter: char| {
                letter.is_whitespace() || letter.is_control() || "?#".contains(letter)
            })
    })
}

impl SettingKind {
    /// What is allowed, for people.
    pub fn allowed(self) -> String {
        match self {
            Self::Number(min, max) => format!("{min} to {max}"),
            Self::Duration(min, max) => {
                format!("{} to {}", SettingValue::Duration(min), SettingValue::Duration(max))
            }
            Self::Seconds(min, max) => {
                let (min, max) = (SettingValue::Duration(min), SettingValue::Duration(max));
                format!("{min} to {max}, in whole seconds")
            }
            Self::Bytes(min, max) => format!("{} to {}", SettingValue::Bytes(min), SettingValue::Bytes(max)),
            Self::Flag => "true, false".to_owned(),
            Self::Url => {
                "a URL without query and fragment, such as https://status.example.com; empty for none"
                    .to_owned()
            }
            Self::Fixed => "only its present value, which was fixed when the database was made".to_owned(),
        }
    }
}

/// As people type it: `250ms`, `15s`, `1d`, `8GiB`. A quantity is shown in the largest unit that
/// divides it.
impl fmt::Display for SettingValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const TIME_UNITS: [(&str, u128); 4] =
            [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
        const BYTE_UNITS: [(&str, u128); 4] =
            [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        let (number, units, smallest) = match self {
            Self::Number(number) => return number.fmt(f),
            Self::Flag(flag) => return flag.fmt(f),
            Self::Text(text) => return text.as_deref().unwrap_or_default().fmt(f),
            Self::Duration(duration) => (duration.as_millis(), TIME_UNITS, "ms"),
            Self::Bytes(bytes) => (u128::from(*bytes), BYTE_UNITS, "B"),
        };
        match units.iter().find(|(_, size)| number >= *size && number.is_multiple_of(*size)) {
            Some((unit, size)) => write!(f, "{}{unit}", number / size),
            None => write!(f, "{number}{smallest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_displayed_in_its_input_notation() {
        for (value, text) in [
            (SettingValue::Duration(Duration::from_millis(250)), "250ms"),
            (SettingValue::Duration(Duration::from_secs(150)), "150s"),
            (SettingValue::Duration(DAY), "1d"),
            (SettingValue::Bytes(8 << 30), "8GiB"),
            (SettingValue::Bytes(1_500), "1500B"),
            (SettingValue::Text(None), ""),
        ] {
            assert_eq!(value.to_string(), text);
        }
    }

    #[test]
    fn every_default_is_valid_and_an_error_names_setting_value_and_allowed_range() {
        for definition in SETTINGS.iter().filter(|definition| definition.kind != SettingKind::Fixed) {
            definition.check(definition.default.as_ref().unwrap()).unwrap();
        }
        let refusal =
            |name, value| SettingDefinition::find(name).unwrap().check(&value).unwrap_err().to_string();
        let second = SettingValue::Duration(Duration::from_secs(1));
        assert_eq!(refusal("lease_time", second), "lease_time: '1s' is not allowed; allowed: 3s to 5m");
        assert!(refusal("shards", SettingValue::Number(8)).contains("fixed"));
        assert!(refusal("public_url", SettingValue::Text(Some("https://a/?b".into()))).contains("https://"));
        assert!(SettingDefinition::find("lease").unwrap_err().to_string().contains("lease_time, "));
    }

    #[test]
    fn a_displayed_setting_parses_and_an_invalid_one_is_refused_with_the_allowed_range() {
        for definition in SETTINGS.iter().filter(|definition| definition.kind != SettingKind::Fixed) {
            let default = definition.default.clone().unwrap();
            assert_eq!(definition.parse(&default.to_string()), Ok(default));
        }
        for (name, value, allowed) in [
            ("lease_time", "15", "3s to 5m"),
            ("min_interval", "1500ms", "1s to 1d, in whole seconds"),
            ("batch_delay", "10500us", "10ms to 500ms"),
            ("retention_days", "many", "1 to 3650"),
            ("results_max_bytes", "1KiB", "1MiB to 64TiB"),
            ("require_tickets", "yes", "true, false"),
            ("public_url", "status.example.com", "https://"),
            ("shards", "8", "present value"),
        ] {
            let refusal = SettingDefinition::find(name).unwrap().parse(value).unwrap_err();
            assert_eq!((refusal.field.as_str(), refusal.value.as_str()), (name, value));
            assert!(refusal.expected.contains(allowed), "{refusal}");
        }
    }
}
