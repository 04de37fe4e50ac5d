//! `POST /streams/{name}/records`: the same way into the log, with the answer held back until the records are durable.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use millstream_core::{CursorDelta, RawBatch, Result};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::health::Part;
use super::ingest::Ingest;
use super::tally::Fate;

/// Memory that the bodies of all requests of a source may take together, in KiB; one more is told to come back.
const BODIES_KIB: usize = 64 << 10;
const KEY_PREFIX: &str = "idempotency/";

/// The HTTP side of a source.
#[derive(Debug)]
pub struct Push {
    ingest: Arc<Ingest>,
    part: Part,
    /// In KiB of bodies.
    room: Semaphore,
    window_us: i64,
    // This is a `parking_lot` mutex: nothing awaits while it is held.
    keys: Mutex<HashMap<String, Key>>,
}

#[derive(Debug, Clone)]
enum Key {
    UnderWay,
    /// `body`: the digest of the body; none of a key that a version without digests has stored.
    Done {
        at_us: i64,
        answer: Stored,
        body: Option<String>,
    },
}

/// What a request came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pushed {
    /// Durable.
    Stored(Stored),
    /// The body as a whole can't be read.
    Malformed(String),
    /// A request with the same idempotency key is still under way.
    InProgress,
    /// The idempotency key was used for another body: nothing is stored.
    KeyReused,
}

/// How many records were stored, and why others were not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Records in the log.
    pub accepted: usize,
    /// Records that were refused; nothing of them is kept.
    pub rejected: Vec<Rejected>,
    /// True where a request with this key had been stored before: nothing was written again.
    #[serde(default)]
    pub duplicate: bool,
}

/// A refused record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// Its index in the request.
    pub index: u32,
    /// Kind of failure.
    pub kind: String,
    /// Why.
    pub message: String,
}

impl Push {
    /// Takes up the keys that the log remembers.
    pub fn new(ingest: Arc<Ingest>, window_us: i64) -> Self {
        let mut keys = HashMap::new();
        let known = ingest.stream.log.producer(&ingest.spec.name).map(|p| p.cursor).unwrap_or_default();
        for (key, value) in &known {
            if let Some((key, known)) = key.strip_prefix(KEY_PREFIX).zip(remembered(value)) {
                keys.insert(key.to_owned(), known);
            }
        }
        let part = ingest.part();
        Self { ingest, part, room: Semaphore::new(BODIES_KIB), window_us, keys: Mutex::new(keys) }
    }

    /// Why no body is taken for want of room on the disk.
    pub fn disk_shortage(&self) -> Option<String> {
        let shortage = self.ingest.disk_shortage(&self.part);
        if shortage.is_none() {
            self.part.works();
        }
        shortage
    }

    /// Takes room for a body of at most `bytes`, until the answer is dropped; none where there is none, or the tasks are
    /// too far behind. A body larger than all the room takes all of it.
    pub fn reserve(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        if self.ingest.is_full() {
            return None;
        }
        let kib = bytes.div_ceil(1024).clamp(1, BODIES_KIB);
        self.room.try_acquire_many(kib as u32).ok()
    }

    /// Stores the records of a body and returns when they are durable. `charset` is the encoding that came with it.
    ///
    /// # Errors
    /// The log can't be written.
    pub async fn push(&self, body: Bytes, charset: Option<&str>, key: Option<&str>) -> Result<Pushed> {
        let digest = key.map(|_| body_digest(&body, charset)).unwrap_or_default();
        let raw = match self.ingest.decoder.split(body, charset) {
            Ok(raw) => RawBatch { charset: charset.map(Into::into), ..raw },
            Err(failure) => return Ok(Pushed::Malformed(failure.message)),
        };
        let Some(key) = key else {
            let (chunks, stored) = self.prepare(&raw)?;
            self.ingest.append(chunks, Vec::new()).await?;
            return Ok(Pushed::Stored(stored));
        };
        if let Some(known) = self.claim(key, &digest) {
            return Ok(known);
        }
        // Released again if anything below fails or the client goes away before the append is under way.
        let claim = Claim { push: self, key };
        let (chunks, stored) = self.prepare(&raw)?;
        let now_us = self.ingest.clock.now_us();
        let mut cursor = self.forget_old(now_us);
        let value = serde_json::to_vec(&(now_us, &stored, &digest)).unwrap_or_default();
        cursor.push((format!("{KEY_PREFIX}{key}"), Some(value.into())));
        self.ingest.append(chunks, cursor).await?;
        claim.done(now_us, stored.clone(), digest);
        Ok(Pushed::Stored(stored))
    }

    fn prepare(&self, raw: &RawBatch) -> Result<(Vec<millstream_storage::log::Chunk>, Stored)> {
        let prepared = self.ingest.prepare(raw)?;
        self.ingest.failed(&prepared.failures, Fate::Refused);
        let rejected = prepared.failures.iter().map(|f| Rejected {
            index: f.row,
            kind: f.failure.kind.as_str().into(),
            message: f.failure.message.clone(),
        });
        let stored =
            Stored { accepted: raw.len() - prepared.failures.len(), rejected: rejected.collect(), duplicate: false };
        Ok((prepared.chunks, stored))
    }

    fn claim(&self, key: &str, digest: &str) -> Option<Pushed> {
        let mut keys = self.keys.lock();
        match keys.get(key) {
            Some(Key::UnderWay) => Some(Pushed::InProgress),
            Some(Key::Done { body: Some(body), .. }) if body != digest => Some(Pushed::KeyReused),
            Some(Key::Done { answer, .. }) => Some(Pushed::Stored(Stored { duplicate: true, ..answer.clone() })),
            None => {
                keys.insert(key.to_owned(), Key::UnderWay);
                None
            }
        }
    }

    fn forget_old(&self, now_us: i64) -> CursorDelta {
        let mut forgotten = Vec::new();
        self.keys.lock().retain(|key, state| {
            let old = matches!(state, Key::Done { at_us, .. } if now_us - *at_us > self.window_us);
            if old {
                forgotten.push((format!("{KEY_PREFIX}{key}"), None));
            }
            !old
        });
        forgotten
    }
}

/// What the log remembers of a key: time, answer and digest; without the digest where an earlier version wrote it.
fn remembered(value: &[u8]) -> Option<Key> {
    if let Ok((at_us, answer, body)) = serde_json::from_slice::<(i64, Stored, String)>(value) {
        return Some(Key::Done { at_us, answer, body: Some(body) });
    }
    let (at_us, answer) = serde_json::from_slice(value).ok()?;
    Some(Key::Done { at_us, answer, body: None })
}

/// SHA-256 of a body and its encoding, in hexadecimal digits.
fn body_digest(body: &[u8], charset: Option<&str>) -> String {
    let mut digest = Sha256::new();
    digest.update(body);
    if let Some(charset) = charset {
        digest.update(b"\0");
        digest.update(charset.to_ascii_lowercase());
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Claim<'a> {
    push: &'a Push,
    key: &'a str,
}

impl Claim<'_> {
    fn done(self, at_us: i64, answer: Stored, body: String) {
        self.push.keys.lock().insert(self.key.to_owned(), Key::Done { at_us, answer, body: Some(body) });
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut keys = self.push.keys.lock();
        if matches!(keys.get(self.key), Some(Key::UnderWay)) {
            keys.remove(self.key);
        }
    }
}
