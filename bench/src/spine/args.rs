//! What can be asked for on the command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// From file to file, beside the peers.
    Throughput,
    /// End-to-end latency under a steady load from a file.
    Latency,
    /// End-to-end latency of few records, pushed over HTTP.
    Trickle,
    /// From file to file by way of an exchange.
    Exchange,
    /// A table of many keys.
    BigTable,
}

/// Measures Millstream from file to file beside Redpanda Connect's core and Flink, and alone where they have no like.
#[derive(Debug, Parser)]
pub struct Args {
    /// The parts to run, separated by commas; all of them where nothing is said.
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<Part>,
    /// Small sizes and one run of each: whether everything works, not how fast. Single sizes can still be given.
    #[arg(long)]
    pub quick: bool,
    /// Records to generate [default: 1000000; quick: 50000].
    #[arg(long)]
    records: Option<u64>,
    /// Runs of each side; the median is reported [default: 3; quick: 1].
    #[arg(long)]
    runs: Option<usize>,
    /// The release binary.
    #[arg(long, default_value = "target/release/millstream")]
    pub millstream: PathBuf,
    /// The first peer's binary; built from bench/peer with Go where it is not given.
    #[arg(long)]
    pub peer: Option<PathBuf>,
    /// The second peer: the folder that bench/flink/fetch.sh has filled; target/peers/flink where it is not given and
    /// there is one.
    #[arg(long)]
    pub flink: Option<PathBuf>,
    /// Leave both peers out.
    #[arg(long)]
    pub no_peer: bool,
    /// Partitions of the source, and so tasks of the pipeline.
    #[arg(long, default_value_t = 2)]
    pub partitions: u32,
    /// How long the load of the latency part lasts, after a warm-up of 3 s; 0 leaves that part out [default: 20; quick:
    /// 3].
    #[arg(long)]
    latency_seconds: Option<u64>,
    /// Records per second of the latency part; half of the measured throughput where it is not given, or 50000 where
    /// that was not measured.
    #[arg(long)]
    pub latency_rate: Option<u64>,
    /// How long each load of the trickle part lasts, after a warm-up of 3 s [default: 30; quick: 3].
    #[arg(long)]
    trickle_seconds: Option<u64>,
    /// Records per second of the trickle part, each in a request of its own.
    #[arg(long, default_value_t = 1000)]
    pub trickle_rate: u64,
    /// Keys of the big table [default: 5000000; quick: 20000].
    #[arg(long)]
    big_table_keys: Option<u64>,
    /// Random updates of the big table [default: 200000; quick: 5000].
    #[arg(long)]
    big_table_updates: Option<u64>,
    /// Also measure the pipeline with a model in it: its source, such as `builtin:headline-sentiment`.
    #[arg(long)]
    pub model: Option<String>,
    /// Records of the runs with a model.
    #[arg(long, default_value_t = 100_000)]
    pub model_records: u64,
    /// Folder for input, data and output: its disk is measured. About 3 GB for a million records, 8 GB for the big
    /// table of five million keys.
    #[arg(long)]
    pub dir: Option<PathBuf>,
}

impl Args {
    /// True where `part` is to be run.
    pub fn wants(&self, part: Part) -> bool {
        let is_left_out = part == Part::Latency && self.latency_seconds() == 0;
        !is_left_out && (self.only.is_empty() || self.only.contains(&part))
    }

    /// Records to generate.
    pub fn records(&self) -> u64 {
        self.records.unwrap_or_else(|| self.size(1_000_000, 50_000))
    }

    /// Runs of each side, at least one.
    pub fn runs(&self) -> usize {
        self.runs.unwrap_or_else(|| self.size(3, 1) as usize).max(1)
    }

    /// Seconds of the latency part.
    pub fn latency_seconds(&self) -> u64 {
        self.latency_seconds.unwrap_or_else(|| self.size(20, 3))
    }

    /// Seconds of each load of the trickle part, at least one.
    pub fn trickle_seconds(&self) -> u64 {
        self.trickle_seconds.unwrap_or_else(|| self.size(30, 3)).max(1)
    }

    /// Keys of the big table, at least one.
    pub fn big_table_keys(&self) -> u64 {
        self.big_table_keys.unwrap_or_else(|| self.size(5_000_000, 20_000)).max(1)
    }

    /// Updates of the big table, at least one.
    pub fn big_table_updates(&self) -> u64 {
        self.big_table_updates.unwrap_or_else(|| self.size(200_000, 5_000)).max(1)
    }

    fn size(&self, full: u64, quick: u64) -> u64 {
        if self.quick { quick } else { full }
    }
}
