//! Small compressed bodies that expand to large ones.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};

/// Returns `mebibytes` MiB of zeros, compressed with gzip.
///
/// # Panics
/// Never, because writes to memory do not fail.
pub fn gzip_bomb(mebibytes: usize) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    for _ in 0..mebibytes {
        encoder.write_all(&vec![0; 1 << 20]).expect("memory");
    }
    encoder.finish().expect("memory")
}
