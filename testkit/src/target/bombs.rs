//! A small body that becomes a large one.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};

/// `mebibytes` of zeros by gzip.
///
/// # Panics
/// Never: memory takes what is written to it.
pub fn gzip_bomb(mebibytes: usize) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    for _ in 0..mebibytes {
        encoder.write_all(&vec![0; 1 << 20]).expect("memory");
    }
    encoder.finish().expect("memory")
}
