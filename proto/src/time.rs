//! Points in time, in microseconds since the Unix epoch. The wire format is RFC 3339 in UTC with
//! six decimals.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::ValidationError;

/// A point in time, in microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// 9999-12-31T23:59:59.999999Z, the latest time that the wire format can represent.
    pub const MAX: Self = Self(253_402_300_799_999_999);
    /// 0001-01-01T00:00:00Z, the earliest accepted time.
    pub const MIN: Self = Self(-62_135_596_800_000_000);

    /// The time `micros` microseconds after the epoch, clamped to the range of the wire format.
    pub fn from_micros(micros: i64) -> Self {
        Self(micros.clamp(Self::MIN.0, Self::MAX.0))
    }

    /// The time `millis` milliseconds after the epoch, clamped likewise.
    pub fn from_millis(millis: i64) -> Self {
        Self::from_micros(millis.saturating_mul(1_000))
    }

    /// Microseconds since the epoch.
    pub fn as_micros(self) -> i64 {
        self.0
    }

    /// Whole milliseconds since the epoch, rounded down.
    pub fn as_millis(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// Time elapsed since `earlier`; zero if `earlier` is later.
    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0).max(0).unsigned_abs())
    }

    /// The time `duration` later, clamped to the range of the wire format.
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self::from_micros(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// The time `duration` earlier, clamped to the range of the wire format.
    pub fn saturating_sub(self, duration: Duration) -> Self {
        Self::from_micros(self.0.saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// The same time as a type of the `time` crate.
    pub fn to_offset_datetime(self) -> OffsetDateTime {
        // In range by construction.
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000)
            .unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

impl From<OffsetDateTime> for Timestamp {
    fn from(moment: OffsetDateTime) -> Self {
        Self::from_micros(i64::try_from(moment.unix_timestamp_nanos().div_euclid(1_000)).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (date, clock) = (self.to_offset_datetime().date(), self.to_offset_datetime().time());
        let (hour, minute, second, micro) = clock.as_hms_micro();
        write!(
            f,
            "{:04}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}.{micro:06}Z",
            date.year(),
            u8::from(date.month()),
            date.day()
        )
    }
}

impl FromStr for Timestamp {
    type Err = ValidationError;

    fn from_str(text: &str) -> Result<Self, ValidationError> {
        OffsetDateTime::parse(text, &Rfc3339)
            .map(Self::from)
            .map_err(|_| ValidationError::new("time", text, "RFC 3339, such as 2026-11-20T12:00:00.000000Z"))
    }
}

impl JsonSchema for Timestamp {
    fn schema_name() -> Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time" })
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Timestamp;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an RFC 3339 time, such as \"2026-11-20T12:00:00.000000Z\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Timestamp, E> {
                text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_serializes_as_documented_and_reads_back() {
        let moment: Timestamp = "2026-11-20T12:00:00.004211Z".parse().unwrap();

        assert_eq!(moment.to_string(), "2026-11-20T12:00:00.004211Z");
        assert_eq!(Timestamp::from_micros(0).to_string(), "1970-01-01T00:00:00.000000Z");
        assert_eq!("2026-11-20T13:00:00+01:00".parse::<Timestamp>().unwrap().as_millis(), 1_795_176_000_000);
        assert_eq!(Timestamp::from_micros(i64::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::MAX.to_string().parse::<Timestamp>().unwrap(), Timestamp::MAX);
    }

    #[test]
    fn any_timestamp_is_written_in_full_precision_and_reads_back() {
        const STEP: i64 = 31_556_951_234_567;
        let mut micros = Timestamp::MIN.0;
        while micros <= Timestamp::MAX.0 {
            let moment = Timestamp::from_micros(micros);
            let text = moment.to_string();
            assert_eq!(text.len(), "2026-11-20T12:00:00.004211Z".len());
            assert_eq!(text.parse::<Timestamp>().unwrap(), moment, "{text}");
            let other = text.replace('Z', "+00:00");
            assert_eq!(other.parse::<Timestamp>().unwrap(), moment, "{other}");
            micros += STEP;
        }
    }

    #[test]
    fn invalid_timestamps_are_refused() {
        for bad in [
            "2026-02-30T00:00:00.000000Z",
            "2026-13-01T00:00:00.000000Z",
            "2026-11-20T24:00:00.000000Z",
            "2026-11-20T12:60:00.000000Z",
            "2026-11-20 12:00:0x.000000Z",
            "2026-11-20T12:00:00.00000Z0",
            "",
        ] {
            assert_eq!(bad.parse::<Timestamp>().unwrap_err().field, "time", "{bad}");
        }
    }

    #[test]
    fn a_duration_between_timestamps_is_never_negative() {
        let (early, late) = (Timestamp::from_micros(5), Timestamp::from_micros(9));

        assert_eq!(late.saturating_duration_since(early), Duration::from_micros(4));
        assert_eq!(early.saturating_duration_since(late), Duration::ZERO);
        assert_eq!(early.saturating_add(Duration::from_micros(4)), late);
    }
}
