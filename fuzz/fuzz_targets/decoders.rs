//! Bytes of a record, for every format. Each record ends in a row or in a failure, whole.

#![no_main]

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use millstream_core::decode::{Decoded, Decoder, RawBatch};

static DECODERS: LazyLock<Vec<Arc<dyn Decoder>>> = LazyLock::new(millstream_fuzz::decoders);

fuzz_target!(|data: &[u8]| {
    let Some((choice, record)) = millstream_fuzz::choice(data) else { return };
    let decoder = &DECODERS[choice % DECODERS.len()];
    let body = Bytes::copy_from_slice(record);
    check(&RawBatch::single(body.clone(), "fuzz".into()), decoder.as_ref());
    for charset in [None, Some("utf-16be"), Some("nonsense")] {
        if let Ok(raw) = decoder.split(body.clone(), charset) {
            check(&raw, decoder.as_ref());
        }
    }
});

fn check(raw: &RawBatch, decoder: &dyn Decoder) {
    let Decoded { batch, record, failures } = decoder.decode(raw);
    assert_eq!(batch.num_rows(), record.len());
    assert_eq!(batch.schema(), decoder.schema());
    let ascending = failures.windows(2).all(|pair| pair[0].row < pair[1].row);
    assert!(ascending && record.is_sorted(), "rows and failures in the order of their records");
    for failure in &failures {
        assert!(!record.contains(&(failure.row as u32)), "a record is in one place");
    }
}
