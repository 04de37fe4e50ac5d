//! What a cached prediction looks like in the state store.
//!
//! ```text
//! entry   e | model digest | 00 | SHA-256 of the input
//!         → 01 | written at, µs, i64 | kind, u8 | count, u32 | f32 × count | check, 8 bytes
//! index   t | written at, µs, i64 BE with the sign bit flipped | the entry's key without `e` → nothing
//! ```
//!
//! Numbers of the value are little-endian. The check is the beginning of SHA-256 over the key and the rest of the
//! value, so that an entry that was damaged, or is that of another text, is never taken for an answer.

use bytes::Bytes;
use millstream_models::{ModelInfo, Prediction, Task};
use sha2::{Digest, Sha256};

const FORMAT: u8 = 1;
const CHECK_BYTES: usize = 8;
/// Format, time, kind, count, check.
const VALUE_BYTES_MIN: usize = 1 + 8 + 1 + 4 + CHECK_BYTES;
const ENTRY: u8 = b'e';
const INDEX: u8 = b't';
const INDEX_TIME_BYTES: usize = 8;

/// The key of what the model with that digest says about `text`, or about cells, as [`millstream_models::Input::key`]
/// has them.
pub(super) fn key(digest: &str, text: &str) -> Bytes {
    let hash = Sha256::digest(text.as_bytes());
    let mut key = Vec::with_capacity(2 + digest.len() + hash.len());
    key.push(ENTRY);
    key.extend_from_slice(digest.as_bytes());
    key.push(0);
    key.extend_from_slice(&hash);
    key.into()
}

/// The key of an entry's place in the order of time.
pub(super) fn index_key(entry_key: &[u8], written_at_us: i64) -> Bytes {
    let mut key = Vec::with_capacity(INDEX_TIME_BYTES + entry_key.len());
    key.push(INDEX);
    key.extend_from_slice(&(written_at_us as u64 ^ (1 << 63)).to_be_bytes());
    key.extend_from_slice(&entry_key[1..]);
    key.into()
}

/// All index keys, oldest first.
pub(super) fn index_range() -> std::ops::Range<Bytes> {
    Bytes::from_static(&[INDEX])..Bytes::from_static(&[INDEX + 1])
}

/// The time and the entry's key in an index key.
pub(super) fn of_index_key(key: &[u8]) -> Option<(i64, Bytes)> {
    let (time, rest) = key.strip_prefix(&[INDEX])?.split_first_chunk::<INDEX_TIME_BYTES>()?;
    let written_at_us = (u64::from_be_bytes(*time) ^ (1 << 63)) as i64;
    Some((written_at_us, [&[ENTRY], rest].concat().into()))
}

/// The value of an entry.
pub(super) fn encode(key: &[u8], written_at_us: i64, prediction: &Prediction) -> Bytes {
    let (kind, numbers) = match prediction {
        Prediction::Scores(scores) => (0, &scores[..]),
        Prediction::Embedding(embedding) => (1, &embedding[..]),
        Prediction::Value(value) => (2, std::slice::from_ref(value)),
    };
    let mut value = Vec::with_capacity(VALUE_BYTES_MIN + numbers.len() * 4);
    value.push(FORMAT);
    value.extend_from_slice(&written_at_us.to_le_bytes());
    value.push(kind);
    value.extend_from_slice(&(numbers.len() as u32).to_le_bytes());
    numbers.iter().for_each(|number| value.extend_from_slice(&number.to_le_bytes()));
    let check = check(key, &value);
    value.extend_from_slice(&check);
    value.into()
}

/// When an entry was written, and what it says; none where it is damaged or does not fit the model.
pub(super) fn decode(key: &[u8], value: &[u8], info: &ModelInfo) -> Option<(i64, Prediction)> {
    let (written_at_us, kind, numbers) = parts(key, value)?;
    let numbers: Vec<f32> = numbers.chunks_exact(4).filter_map(|n| n.try_into().ok()).map(f32::from_le_bytes).collect();
    let prediction = match (kind, info.task) {
        (0, Task::TextClassification | Task::TabularClassification) if numbers.len() == info.labels.len() => {
            Prediction::Scores(numbers)
        }
        (1, Task::Embedding) if info.dimensions.is_none_or(|d| d == numbers.len()) => Prediction::Embedding(numbers),
        (2, Task::TabularRegression) => match numbers[..] {
            [value] => Prediction::Value(value),
            _ => return None,
        },
        _ => return None,
    };
    Some((written_at_us, prediction))
}

/// When an entry was written; none where it is damaged.
pub(super) fn written_at_us(key: &[u8], value: &[u8]) -> Option<i64> {
    parts(key, value).map(|(written_at_us, ..)| written_at_us)
}

fn parts<'a>(key: &[u8], value: &'a [u8]) -> Option<(i64, u8, &'a [u8])> {
    let (body, stored_check) = value.split_last_chunk::<CHECK_BYTES>()?;
    if *stored_check != check(key, body) {
        return None;
    }
    let (format, rest) = body.split_first()?;
    let (time, rest) = rest.split_first_chunk::<8>()?;
    let (kind, rest) = rest.split_first()?;
    let (count, numbers) = rest.split_first_chunk::<4>()?;
    let fits = *format == FORMAT && numbers.len() == u32::from_le_bytes(*count) as usize * 4;
    fits.then_some((i64::from_le_bytes(*time), *kind, numbers))
}

fn check(key: &[u8], body: &[u8]) -> [u8; CHECK_BYTES] {
    let digest = Sha256::new().chain_update(key).chain_update(body).finalize();
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&digest[..CHECK_BYTES]);
    check
}
