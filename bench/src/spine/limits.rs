//! What this machine could do at most: parse JSON and nothing else, write and sync and nothing else.

use std::fs::File;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use millstream_connectors::format::{DecodeConfig, build};
use millstream_core::{Field, FieldType, RawBatch, StreamSchema};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::generate::Input;
use crate::{Outcome, median, round};

const SAMPLE_BYTES: usize = 64 << 20;
const ROUNDS: usize = 5;
/// Lines that are decoded together.
const BATCH: usize = 2500;
const SYNC_BYTES: usize = 1 << 20;
const WRITE_MIB: usize = 256;

/// Both limits; parsing on one thread.
pub fn measure(input: &Input, dir: &Path) -> Outcome<Value> {
    let lines = sample(&input.path)?;
    let bytes: usize = lines.iter().map(Bytes::len).sum();
    let rate = |seconds: f64| json!({ "records_per_s": (lines.len() as f64 / seconds).round(), "mb_per_s": round(bytes as f64 / seconds / 1e6, 1) });
    let parse = timed(|| {
        for line in &lines {
            black_box(serde_json::from_slice::<IgnoredAny>(line)?);
        }
        Ok(())
    })?;
    let decoder = build(&DecodeConfig::default(), &schema()).map_err(|e| format!("the schema is wrong: {e}"))?;
    let batches = batches(&lines);
    let decode = timed(|| {
        for raw in &batches {
            if !black_box(decoder.decode(raw)).failures.is_empty() {
                return Err("a generated record does not decode".into());
            }
        }
        Ok(())
    })?;
    Ok(json!({
        "parse_json_one_thread": rate(parse),
        "millstream_decoder_one_thread": rate(decode),
        "write_with_fsync_per_mib": write_with_syncs(&dir.join("plain"))?,
    }))
}

/// The first lines of the input.
fn sample(path: &Path) -> Outcome<Vec<Bytes>> {
    let mut lines = Vec::new();
    let mut bytes = 0;
    for line in BufReader::with_capacity(1 << 20, File::open(path)?).split(b'\n') {
        let line = line?;
        bytes += line.len();
        lines.push(line.into());
        if bytes > SAMPLE_BYTES {
            break;
        }
    }
    Ok(lines)
}

fn batches(lines: &[Bytes]) -> Vec<RawBatch> {
    let batch = |lines: &[Bytes]| {
        let mut raw = RawBatch::default();
        let mut data = Vec::new();
        for line in lines {
            raw.spans.push(data.len()..data.len() + line.len());
            data.extend_from_slice(line);
            data.push(b'\n');
        }
        raw.data = data.into();
        raw
    };
    lines.chunks(BATCH).map(batch).collect()
}

fn schema() -> StreamSchema {
    let field = |(name, kind, optional): (&str, FieldType, bool)| Field { name: name.into(), kind, optional };
    let fields = [
        ("id", FieldType::String, false),
        ("headline", FieldType::String, false),
        ("body", FieldType::String, true),
        ("language", FieldType::String, true),
        ("source", FieldType::String, false),
        ("section", FieldType::String, true),
        ("urgency", FieldType::Int, false),
        ("words", FieldType::Int, true),
        ("published_at", FieldType::Timestamp, false),
    ];
    StreamSchema { fields: fields.map(field).into() }
}

/// Median seconds.
fn timed(mut work: impl FnMut() -> Outcome<()>) -> Outcome<f64> {
    let mut seconds = Vec::new();
    for _ in 0..ROUNDS {
        let started = Instant::now();
        work()?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    Ok(median(seconds.into_iter()))
}

fn write_with_syncs(path: &Path) -> Outcome<Value> {
    let mut file = File::create(path)?;
    let block = vec![b'x'; SYNC_BYTES];
    let mut syncs = Vec::new();
    let started = Instant::now();
    for _ in 0..WRITE_MIB {
        file.write_all(&block)?;
        let before = Instant::now();
        file.sync_data()?;
        syncs.push(before.elapsed().as_secs_f64());
    }
    let seconds = started.elapsed().as_secs_f64();
    // As a small commit does: one block, one sync.
    let mut small = Vec::new();
    for _ in 0..WRITE_MIB {
        let before = Instant::now();
        file.write_all(&block[..4096])?;
        file.sync_data()?;
        small.push(before.elapsed().as_secs_f64());
    }
    std::fs::remove_file(path)?;
    Ok(json!({
        "mb_per_s": round((WRITE_MIB * SYNC_BYTES) as f64 / seconds / 1e6, 1),
        "fsync_of_1_mib_p50_ms": round(median(syncs.into_iter()) * 1e3, 3),
        "write_and_fsync_of_4_kib_p50_ms": round(median(small.into_iter()) * 1e3, 3),
    }))
}
