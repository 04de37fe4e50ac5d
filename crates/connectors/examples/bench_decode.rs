//! How fast JSON lines become Arrow columns: Millstream's decoder beside `serde_json::Value` and `arrow-json`, on the
//! same generated records (news, about 400 bytes, 6 declared fields), one thread each, median of the rounds.
//!
//! `cargo run --release -p millstream-connectors --example bench_decode`. Prints JSON. It leaves out reading from disk.

use std::fmt::Write;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use arrow::json::reader::ReaderBuilder;
use bytes::Bytes;
use millstream_connectors::format::{DecodeConfig, build};
use millstream_core::json::write_lines;
use millstream_core::{Decoder, Field, FieldType, RawBatch, StreamSchema};

const RECORDS: usize = 200_000;
const BATCH: usize = 2_500;
const ROUNDS: usize = 7;

fn main() {
    let body = generate();
    let schema = schema();
    let decoder = build(&DecodeConfig::default(), &schema).expect("the schema is valid");
    let batches = batches(&body, decoder.as_ref());
    let bytes = body.len() as f64;

    let ours = median(|| {
        for raw in &batches {
            let decoded = decoder.decode(raw);
            assert!(decoded.failures.is_empty());
            black_box(decoded);
        }
    });
    let values = median(|| {
        for raw in &batches {
            for i in 0..raw.len() {
                black_box(serde_json::from_slice::<serde_json::Value>(raw.record(i)).expect("it is JSON"));
            }
        }
    });
    let arrow_schema = schema.arrow();
    let arrow = median(|| {
        for raw in &batches {
            let mut reader = ReaderBuilder::new(Arc::clone(&arrow_schema))
                .with_batch_size(BATCH)
                .build_decoder()
                .expect("the schema is valid");
            let mut rest = &raw.data[raw.spans[0].start..raw.spans[raw.len() - 1].end];
            while !rest.is_empty() {
                let read = reader.decode(rest).expect("it is JSON");
                if read == 0 {
                    break;
                }
                rest = &rest[read..];
            }
            black_box(reader.flush().expect("it fits the schema"));
        }
    });
    let decoded: Vec<_> = batches.iter().map(|raw| decoder.decode(raw).batch).collect();
    let mut out = Vec::with_capacity(body.len());
    let encode = median(|| {
        out.clear();
        for batch in &decoded {
            write_lines(batch, &mut out).expect("every type has a text form");
        }
    });

    let rate = |bytes: f64, seconds: f64| (bytes / seconds / 1e6).round();
    let report = serde_json::json!({
        "records": RECORDS,
        "bytes_per_record": (bytes / RECORDS as f64).round(),
        "rounds": ROUNDS,
        "decode_mb_per_s": {
            "millstream": rate(bytes, ours),
            "serde_json_value": rate(bytes, values),
            "arrow_json": rate(bytes, arrow),
        },
        "times_faster_than": { "serde_json_value": values / ours, "arrow_json": arrow / ours },
        "encode_json_lines_mb_per_s": rate(out.len() as f64, encode),
    });
    println!("{report:#}");
}

fn schema() -> StreamSchema {
    let fields = [
        ("id", FieldType::String, false),
        ("headline", FieldType::String, false),
        ("body", FieldType::String, true),
        ("language", FieldType::String, true),
        ("words", FieldType::Int, false),
        ("published_at", FieldType::Timestamp, false),
    ];
    let fields = fields.map(|(name, kind, optional)| Field { name: name.into(), kind, optional });
    StreamSchema { fields: fields.into() }
}

fn generate() -> Bytes {
    const WORDS: [&str; 12] = [
        "harbour", "rates", "hold", "after", "strong", "quarter", "analysts", "expect", "record", "shipping", "week",
        "prices",
    ];
    let mut state = 7_u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut out = String::new();
    for i in 0..RECORDS {
        let mut sentence = |words: usize| (0..words).map(|_| WORDS[next(WORDS.len())]).collect::<Vec<_>>().join(" ");
        let (headline, body) = (sentence(8), sentence(28));
        let escape = if i % 10 == 0 { "\\n\\\"quoted\\\" " } else { "" };
        let _ = writeln!(
            out,
            r#"{{"id":"wire-{i:08}","headline":"{headline}","body":"{body} {escape}€","language":"en","words":{},"published_at":"2026-03-{:02}T12:{:02}:{:02}.{:03}Z"}}"#,
            next(1_000),
            next(28) + 1,
            next(60),
            next(60),
            next(1_000),
        );
    }
    out.into()
}

fn batches(body: &Bytes, decoder: &dyn Decoder) -> Vec<RawBatch> {
    let whole = decoder.split(body.clone(), None).expect("it is JSON");
    whole
        .spans
        .chunks(BATCH)
        .map(|spans| {
            let (from, to) = (spans[0].start, spans[spans.len() - 1].end);
            let spans = spans.iter().map(|span| span.start - from..span.end - from).collect();
            RawBatch { data: whole.data.slice(from..to), spans, ..RawBatch::default() }
        })
        .collect()
}

/// Seconds.
fn median(mut work: impl FnMut()) -> f64 {
    let mut seconds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[ROUNDS / 2]
}
