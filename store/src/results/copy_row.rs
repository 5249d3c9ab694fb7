//! A row of the binary format of `COPY`.

use picket_proto::Timestamp;
use sqlx::postgres::types::Oid;

use crate::DbTimestamp;

/// A row in the binary format, in which each column is preceded by its length.
pub(super) struct BinaryCopyRow<'a>(pub(super) &'a mut Vec<u8>);

impl BinaryCopyRow<'_> {
    pub(super) fn write_i16(&mut self, value: Option<i16>) {
        self.write_column(value.map(i16::to_be_bytes));
    }

    pub(super) fn write_i32(&mut self, value: Option<i32>) {
        self.write_column(value.map(i32::to_be_bytes));
    }

    pub(super) fn write_i64(&mut self, value: Option<i64>) {
        self.write_column(value.map(i64::to_be_bytes));
    }

    pub(super) fn write_bool(&mut self, value: Option<bool>) {
        self.write_column(value.map(|value| [u8::from(value)]));
    }

    pub(super) fn write_timestamp(&mut self, value: Option<Timestamp>) {
        self.write_i64(value.map(|at| DbTimestamp(at).to_wire()));
    }

    /// Writes a text or an enum value.
    pub(super) fn write_text(&mut self, value: Option<impl AsRef<str>>) {
        match value {
            Some(text) => self.write_bytes(text.as_ref().as_bytes()),
            None => self.write_column::<0>(None),
        }
    }

    /// Writes an array of enum values of the type `element`; null if there are none.
    pub(super) fn write_enum_array(&mut self, values: &[&str], element: Oid) {
        if values.is_empty() {
            return self.write_column::<0>(None);
        }
        let count = i32::try_from(values.len()).unwrap_or(i32::MAX);
        let mut array = Vec::new();
        // One dimension, no nulls, the element's type, the number of elements, counted from 1.
        // Source: array_send in Postgres's src/backend/utils/adt/arrayfuncs.c
        for number in [1_i32, 0] {
            array.extend_from_slice(&number.to_be_bytes());
        }
        array.extend_from_slice(&element.0.to_be_bytes());
        for number in [count, 1] {
            array.extend_from_slice(&number.to_be_bytes());
        }
        let mut elements = BinaryCopyRow(&mut array);
        for value in values {
            elements.write_text(Some(value));
        }
        self.write_bytes(&array);
    }

    /// Writes the text of a JSON value.
    pub(super) fn write_jsonb(&mut self, text: Option<String>) {
        /// Version of the binary form. Source: jsonb_recv in Postgres's
        /// src/backend/utils/adt/jsonb.c
        const JSONB_VERSION: u8 = 1;
        match text {
            Some(text) => self.write_bytes(&[&[JSONB_VERSION], text.as_bytes()].concat()),
            None => self.write_column::<0>(None),
        }
    }

    fn write_column<const N: usize>(&mut self, value: Option<[u8; N]>) {
        match value {
            Some(bytes) => self.write_bytes(&bytes),
            None => self.0.extend_from_slice(&(-1_i32).to_be_bytes()),
        }
    }

    fn write_bytes(&mut self, bytes: &[u8]) {
        // Texts have been truncated to their limits.
        let length = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(bytes);
    }
}
