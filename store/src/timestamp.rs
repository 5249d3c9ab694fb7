//! Conversion of `timestamptz` values that enter or leave this crate.
//!
//! Postgres has values that the driver's own type cannot represent and panics on: both infinities,
//! and years after 9999. [`DbTimestamp`] clamps such values to the nearest bound of [`Timestamp`].

use picket_proto::Timestamp;
use serde::Serialize;
use sqlx::{
    Decode, Encode, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueRef},
    types::time::OffsetDateTime,
};

/// A `timestamptz`, clamped to the range of [`Timestamp`] when read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct DbTimestamp(pub Timestamp);

/// 2000-01-01T00:00:00Z, the epoch of Postgres, in microseconds since the Unix epoch.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

impl DbTimestamp {
    /// Converts the wire format (`micros` since the epoch of Postgres); `i64::MIN` and `i64::MAX`
    /// are the infinities.
    fn from_wire(micros: i64) -> Self {
        Self(Timestamp::from_micros(micros.saturating_add(POSTGRES_EPOCH_US)))
    }

    /// Converts to the wire format.
    pub(crate) fn to_wire(self) -> i64 {
        self.0.as_micros().saturating_sub(POSTGRES_EPOCH_US)
    }
}

impl From<Timestamp> for DbTimestamp {
    fn from(at: Timestamp) -> Self {
        Self(at)
    }
}

impl From<DbTimestamp> for Timestamp {
    fn from(at: DbTimestamp) -> Self {
        at.0
    }
}

impl Type<Postgres> for DbTimestamp {
    fn type_info() -> PgTypeInfo {
        <OffsetDateTime as Type<Postgres>>::type_info()
    }
}

impl PgHasArrayType for DbTimestamp {
    fn array_type_info() -> PgTypeInfo {
        OffsetDateTime::array_type_info()
    }
}

impl Encode<'_, Postgres> for DbTimestamp {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        Encode::<Postgres>::encode(self.to_wire(), buffer)
    }

    fn size_hint(&self) -> usize {
        size_of::<i64>()
    }
}

impl<'r> Decode<'r, Postgres> for DbTimestamp {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        // All statements of this crate that return rows are prepared, so that values are binary.
        <i64 as Decode<'r, Postgres>>::decode(value).map(Self::from_wire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_out_of_range_is_clamped_to_the_nearest_representable_one() {
        let read = |micros| DbTimestamp::from_wire(micros).0;

        assert_eq!(read(0).to_string(), "2000-01-01T00:00:00.000000Z");
        assert_eq!((read(i64::MIN), read(i64::MAX)), (Timestamp::MIN, Timestamp::MAX));
        // The last timestamp of Postgres, in the year 294276.
        assert_eq!(read(9_223_371_331_199_999_999), Timestamp::MAX);
        for at in [Timestamp::MIN, Timestamp::from_micros(1), Timestamp::MAX] {
            assert_eq!(read(DbTimestamp(at).to_wire()), at);
        }
    }
}
