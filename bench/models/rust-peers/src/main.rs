//! The peers of `bench/models` that are Rust: the same weights and inputs through candle and rten.
//!
//! `rust-peers FOLDER PEER --seconds 3` measures one peer and prints one line of JSON, as `peers.py run` does. The
//! folder is made by `peers.py make`. There are as many threads as cores, or as `RAYON_NUM_THREADS` says.

mod inputs;
mod measure;
mod with_candle;
mod with_rten;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use inputs::Padded;
use serde_json::{Value, json};

/// What everything here fails with: a message for the person who runs it.
type Outcome<T> = Result<T, Box<dyn Error>>;
/// A loaded model: from a batch to the logits of each of its sequences.
type Call = Box<dyn Fn(&Padded) -> Outcome<Vec<Vec<f32>>>>;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures one peer in this process.
#[derive(Debug, Parser)]
struct Args {
    /// A folder of `peers.py make`.
    folder: PathBuf,
    /// The runtime and its precision.
    peer: Peer,
    /// How long each batch size is measured, at least.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Peer {
    /// candle on the folder's safetensors.
    CandleF32,
    /// rten on `model.onnx`.
    RtenF32,
    /// rten on `model-int8.onnx`.
    RtenInt8,
}

fn main() -> ExitCode {
    match measure(&Args::parse()) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("rust-peers: {e}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> Outcome<Value> {
    let rows = inputs::read(&args.folder)?;
    let call = load(args.peer, &args.folder)?;
    // Two sequences, so that the last one is scored with its mask.
    let logits = call(&Padded::new(&rows[rows.len().saturating_sub(2)..]))?.pop();
    let results = measure::BATCHES.iter().map(|&batch| measure::one_size(&call, &rows, batch, args.seconds));
    let results = results.collect::<Outcome<Vec<Value>>>()?;
    Ok(json!({
        "who": args.peer.to_possible_value().map(|name| name.get_name().to_owned()),
        "version": version(args.peer),
        "results": results,
        "peak_rss_bytes": measure::peak_rss_bytes()?,
        "logits": logits,
    }))
}

fn load(peer: Peer, folder: &Path) -> Outcome<Call> {
    match peer {
        Peer::CandleF32 => with_candle::load(folder),
        Peer::RtenF32 => with_rten::load(&folder.join("model.onnx")),
        Peer::RtenInt8 => with_rten::load(&folder.join("model-int8.onnx")),
    }
}

/// The version that `Cargo.lock` pins: the crates do not say theirs.
fn version(peer: Peer) -> Option<&'static str> {
    let name = match peer {
        Peer::CandleF32 => "name = \"candle-core\"\nversion = \"",
        Peer::RtenF32 | Peer::RtenInt8 => "name = \"rten\"\nversion = \"",
    };
    include_str!("../Cargo.lock").split_once(name)?.1.split('"').next()
}
