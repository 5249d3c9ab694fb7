//! A row of the binary format of `COPY`.

use picket_proto::Timestamp;

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
