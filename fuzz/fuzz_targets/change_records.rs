//! Bytes of a batch of a change stream, as logs store them: right, or refused; never something else.

#![no_main]

use std::sync::{Arc, LazyLock};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use millstream_core::decode::RawBatch;
use millstream_storage::codec::{decode_batch, encode_batch};
use millstream_storage::table::{TableSpec, change_schema};

/// A batch, its schema and its bytes.
static WHOLE: LazyLock<(RecordBatch, Bytes)> = LazyLock::new(|| {
    let decoder = &millstream_fuzz::decoders()[0];
    let record = br#"{"id": "a", "n": 7, "tags": ["x", "y"], "part": {"a": 1, "b": [0.5]}, "doc": {"k": [1]}}"#;
    let decoded = decoder.decode(&RawBatch::single(Bytes::from_static(record), "fuzz".into()));
    let batch = decoded.batch;
    assert_eq!(batch.num_rows(), 1);
    let bytes = encode_batch(&batch).expect("a batch without dictionaries");
    (batch, bytes)
});

static CHANGES: LazyLock<SchemaRef> = LazyLock::new(|| {
    let schema = Arc::new(millstream_fuzz::columns());
    change_schema(&TableSpec { name: "t".into(), key: vec![0], schema, ttl_us: None })
});

fuzz_target!(|data: &[u8]| {
    let (batch, bytes) = &*WHOLE;
    let _ = decode_batch(&Bytes::copy_from_slice(data), &CHANGES);
    let mut changed = bytes.to_vec();
    for change in data.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % changed.len();
        changed[at] ^= change[2];
    }
    match decode_batch(&Bytes::from(changed), &batch.schema()) {
        Ok(read) => assert_eq!(&read, batch, "a damaged batch is read as another one"),
        Err(refused) => drop(refused.to_string()),
    }
});
