//! `POST /streams/{name}/records`: the same way into the log, with the answer held back until the records are durable.

mod keys;

use std::sync::Arc;

use bytes::Bytes;
use millstream_connectors::PushSpec;
use millstream_core::{Error, Headers, RawBatch, Result};
use millstream_storage::log::Chunk;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use self::keys::Keys;
use crate::health::Part;
use crate::ingest::{Ingest, OnTheWay};
use crate::room::{Room, Share};
use crate::tally::Fate;
use millstream_core::blocking::with_bytes;

/// Memory that the bodies of all requests of a source may take together; one more is told to come back.
const BODIES_BYTES: usize = 64 << 20;
/// Bodies that are taken apart at once: the records of one can be many times its size, for a moment.
const APART: usize = 2;
/// Records that are decoded together.
const DECODE_RECORDS: usize = 32 << 10;
/// Refused records that an answer lists, and that are remembered for a request with an `Idempotency-Key`. Of the others
/// there is a number.
const LISTED_MAX: usize = 100;
const REMEMBERED_MAX: usize = 10;
/// Characters of the reason for each.
const MESSAGE_CHARS_MAX: usize = 200;

/// The HTTP side of a source.
#[derive(Debug)]
pub struct Push {
    ingest: Arc<Ingest>,
    spec: PushSpec,
    part: Part,
    room: Arc<Room>,
    apart: Semaphore,
    // This is a `parking_lot` mutex: nothing awaits while it is held.
    keys: Mutex<Keys>,
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
    /// How many more were refused than are listed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rejected_not_listed: usize,
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

#[allow(clippy::trivially_copy_pass_by_ref)] // Serde asks for a reference.
fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Stored {
    /// What is remembered of it.
    fn brief(&self) -> Self {
        let mut brief = self.clone();
        brief.rejected.truncate(REMEMBERED_MAX);
        brief.rejected_not_listed += self.rejected.len() - brief.rejected.len();
        brief
    }
}

impl Push {
    /// Takes up the keys that the log remembers.
    pub fn new(ingest: Arc<Ingest>, spec: &PushSpec) -> Self {
        let known = ingest.stream.log.producer(&ingest.spec.name).map(|p| p.cursor).unwrap_or_default();
        let keys = Mutex::new(Keys::restored(&known, spec.key_window_us));
        let part = ingest.part();
        let (room, apart) = (Room::new(BODIES_BYTES), Semaphore::new(APART));
        Self { ingest, spec: spec.clone(), part, room, apart, keys }
    }

    /// What is taken in.
    pub fn spec(&self) -> &PushSpec {
        &self.spec
    }

    /// Why no body is taken for want of room on the disk.
    pub fn disk_shortage(&self) -> Option<String> {
        let shortage = self.ingest.disk_shortage(&self.part);
        if shortage.is_none() {
            self.part.works();
        }
        shortage
    }

    /// Memory for a body, to be kept until the answer; none where the tasks are too far behind.
    pub fn room(&self) -> Option<Share> {
        (!self.ingest.is_full()).then(|| self.room.share())
    }

    /// Stores the records of a body and returns when they are durable. `charset` is the encoding that came with it,
    /// `headers` what is kept with each of its records.
    ///
    /// # Errors
    /// The log can't be written.
    pub async fn push(
        &self,
        body: Bytes,
        charset: Option<&str>,
        key: Option<&str>,
        headers: Headers,
    ) -> Result<Pushed> {
        let apart = self.apart.acquire().await.map_err(|e| Error::bug(e.to_string()))?;
        let bytes = body.len();
        let (digest, raw) = with_bytes(bytes, || {
            let digest = key.map(|_| body_digest(&body, charset)).unwrap_or_default();
            (digest, self.ingest.decoder.split(body, charset))
        });
        let raw = match raw {
            Ok(raw) => {
                let headers = if self.spec.headers.is_empty() { Vec::new() } else { vec![headers; raw.len()] };
                RawBatch { charset: charset.map(Into::into), headers, ..raw }
            }
            Err(failure) => return Ok(Pushed::Malformed(failure.message)),
        };
        let Some(key) = key else {
            let (chunks, on_the_way, stored) = with_bytes(bytes, || self.prepare(&raw))?;
            drop((raw, apart));
            self.ingest.append(chunks, Vec::new(), on_the_way).await?;
            return Ok(Pushed::Stored(stored));
        };
        let known = self.keys.lock().claim(key, &digest);
        if let Some(known) = known {
            return Ok(known);
        }
        // Released again if anything below fails or the client goes away before the append is under way.
        let claim = Claim { push: self, key };
        let (chunks, on_the_way, stored) = with_bytes(bytes, || self.prepare(&raw))?;
        drop((raw, apart));
        let now_us = self.ingest.clock.now_us();
        let brief = stored.brief();
        let (cursor, bytes) = self.keys.lock().entry(key, now_us, &brief, &digest);
        self.ingest.append(chunks, cursor, on_the_way).await?;
        self.keys.lock().done(key, now_us, brief, digest, bytes);
        drop(claim);
        Ok(Pushed::Stored(stored))
    }

    /// Decodes records a part at a time, so that what refusing them takes does not grow with the body.
    fn prepare(&self, raw: &RawBatch) -> Result<(Vec<Chunk>, Vec<OnTheWay>, Stored)> {
        let (mut chunks, mut on_the_way, mut rejected, mut refused) = (Vec::new(), Vec::new(), Vec::new(), 0);
        let first_records = (0..raw.len()).step_by(DECODE_RECORDS);
        for first in first_records.chain(raw.is_empty().then_some(0)) {
            let last = (first + DECODE_RECORDS).min(raw.len());
            let part = if last - first == raw.len() { None } else { Some(raw.slice(first..last)) };
            let prepared = self.ingest.prepare(part.as_ref().unwrap_or(raw))?;
            self.ingest.failed(&prepared.failures, Fate::Refused);
            refused += prepared.failures.len();
            chunks.extend(prepared.chunks);
            on_the_way.push(prepared.on_the_way);
            let room = LISTED_MAX - rejected.len();
            rejected.extend(prepared.failures.iter().take(room).map(|f| Rejected {
                index: first as u32 + f.row,
                kind: f.failure.kind.as_str().into(),
                message: shortened(&f.failure.message),
            }));
        }
        let rejected_not_listed = refused - rejected.len();
        let stored = Stored { accepted: raw.len() - refused, rejected, rejected_not_listed, duplicate: false };
        Ok((chunks, on_the_way, stored))
    }
}

fn shortened(message: &str) -> String {
    match message.char_indices().nth(MESSAGE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
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

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.push.keys.lock().release(self.key);
    }
}
