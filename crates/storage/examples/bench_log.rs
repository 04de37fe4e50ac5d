//! Measures the log against plain file writes and prints JSON.
//!
//! `cargo run --release -p millstream-storage --example bench_log -- [--mib 64] [--rounds 3] [--dir FOLDER]`
//!
//! For records of 100 B, 1 KB and 64 KB: `append_single` is 64 appenders that each wait for their record to be durable;
//! `append_batch` is 4 appenders that each wait for a chunk of about 64 KiB. The plain file beside each gets the same
//! payload bytes in as many writes, each followed by a sync, as the log did syncs: what is left between the two is the
//! log's own work. `read` reads all chunks back through a newly opened log (no tail in memory, every CRC checked),
//! beside a plain file of the same bytes read in blocks of 1 MiB; both from the page cache. Medians over the rounds.
//! Left out: encoding and compression of records, which belong to the caller; a cold page cache.

use std::error::Error;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use millstream_core::SystemClock;
use millstream_core::disk::{Disk, DiskFile, OpenMode, RealDisk};
use millstream_storage::log::{Append, Chunk, DiskLog, LogOptions};
use serde_json::{Value, json};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const SINGLE_APPENDERS: u64 = 64;
const BATCH_APPENDERS: u64 = 4;
const BATCH_BYTES: u64 = 64 << 10;
/// Single appends are many small waits; more of them say nothing new.
const SINGLE_RECORDS_MAX: u64 = 200_000;

#[tokio::main]
async fn main() -> Outcome<()> {
    let args = Args::parse()?;
    let folder = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let mut results = Vec::new();
    for record_bytes in [100, 1 << 10, 64 << 10] {
        for case in [Case::single(record_bytes, args.mib), Case::batch(record_bytes, args.mib)] {
            let mut rounds = Vec::new();
            for round in 0..args.rounds {
                rounds.push(case.run(&folder.path().join(format!("{record_bytes}-{}-{round}", case.name))).await?);
            }
            results.push(case.report(&rounds));
        }
    }
    let report = json!({ "benchmark": "log", "mib_per_case": args.mib, "rounds": args.rounds, "results": results });
    writeln!(io::stdout(), "{report:#}")?;
    Ok(())
}

struct Args {
    mib: u64,
    rounds: usize,
    dir: Option<PathBuf>,
}

impl Args {
    fn parse() -> Outcome<Self> {
        let mut parsed = Self { mib: 64, rounds: 3, dir: None };
        let mut args = std::env::args().skip(1);
        while let Some(name) = args.next() {
            let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--mib" => parsed.mib = value.parse()?,
                "--rounds" => parsed.rounds = value.parse::<usize>()?.max(1),
                "--dir" => parsed.dir = Some(value.into()),
                _ => return Err(format!("unknown option {name}: known are --mib, --rounds, --dir").into()),
            }
        }
        Ok(parsed)
    }
}

struct Case {
    name: &'static str,
    record_bytes: u64,
    records_per_chunk: u64,
    appenders: u64,
    chunks_per_appender: u64,
}

/// Seconds and counts of one round.
struct Round {
    append_s: f64,
    plain_write_s: f64,
    read_s: f64,
    plain_read_s: f64,
    syncs: u64,
}

impl Case {
    fn single(record_bytes: u64, mib: u64) -> Self {
        let records = ((mib << 20) / record_bytes).min(SINGLE_RECORDS_MAX);
        let chunks_per_appender = (records / SINGLE_APPENDERS).max(1);
        Self { name: "single", record_bytes, records_per_chunk: 1, appenders: SINGLE_APPENDERS, chunks_per_appender }
    }

    fn batch(record_bytes: u64, mib: u64) -> Self {
        let records_per_chunk = (BATCH_BYTES / record_bytes).max(1);
        let chunk_bytes = records_per_chunk * record_bytes;
        let chunks_per_appender = ((mib << 20) / chunk_bytes / BATCH_APPENDERS).max(1);
        Self { name: "batch", record_bytes, records_per_chunk, appenders: BATCH_APPENDERS, chunks_per_appender }
    }

    fn records(&self) -> u64 {
        self.appenders * self.chunks_per_appender * self.records_per_chunk
    }

    fn bytes(&self) -> u64 {
        self.records() * self.record_bytes
    }

    async fn run(&self, dir: &Path) -> Outcome<Round> {
        let disk = CountingDisk::default();
        let log = open(&disk, dir)?;
        let syncs_before = disk.syncs.load(Ordering::Relaxed);
        let started = Instant::now();
        self.append(&log).await?;
        let append_s = started.elapsed().as_secs_f64();
        let syncs = disk.syncs.load(Ordering::Relaxed) - syncs_before;
        log.close().await?;

        let plain = dir.join("plain");
        let started = Instant::now();
        write_plain(&plain, self.bytes(), syncs.max(1))?;
        let plain_write_s = started.elapsed().as_secs_f64();

        let log = open(&disk, dir)?;
        let started = Instant::now();
        let read = read_log(&log)?;
        let read_s = started.elapsed().as_secs_f64();
        if read != (self.records(), self.bytes()) {
            return Err(format!("{} records, {} bytes were read", read.0, read.1).into());
        }
        let started = Instant::now();
        read_plain(&plain)?;
        let plain_read_s = started.elapsed().as_secs_f64();
        log.close().await?;
        std::fs::remove_dir_all(dir)?;
        Ok(Round { append_s, plain_write_s, read_s, plain_read_s, syncs })
    }

    async fn append(&self, log: &DiskLog) -> Outcome<()> {
        let payload = Bytes::from(vec![b'x'; (self.records_per_chunk * self.record_bytes) as usize]);
        let appenders = (0..self.appenders).map(|_| {
            let (log, payload) = (log.clone(), payload.clone());
            let (chunks, count) = (self.chunks_per_appender, self.records_per_chunk as u32);
            tokio::spawn(async move {
                for _ in 0..chunks {
                    let chunk = Chunk::rows(0, count, 1, payload.clone());
                    log.append(Append { chunks: vec![chunk], ..Append::default() }).await?;
                }
                Ok::<_, millstream_core::Error>(())
            })
        });
        for appender in appenders.collect::<Vec<_>>() {
            appender.await??;
        }
        Ok(())
    }

    fn report(&self, rounds: &[Round]) -> Value {
        let [append, plain_write, read, plain_read] = [
            median(rounds.iter().map(|r| r.append_s)),
            median(rounds.iter().map(|r| r.plain_write_s)),
            median(rounds.iter().map(|r| r.read_s)),
            median(rounds.iter().map(|r| r.plain_read_s)),
        ];
        let rate = |seconds: f64| {
            json!({
                "records_per_s": (self.records() as f64 / seconds).round(),
                "mb_per_s": (self.bytes() as f64 / seconds / 1e4).round() / 100.0,
            })
        };
        let syncs = median(rounds.iter().map(|r| r.syncs as f64));
        json!({
            "record_bytes": self.record_bytes,
            "case": self.name,
            "appenders": self.appenders,
            "records": self.records(),
            "syncs": syncs,
            "bytes_per_sync": (self.bytes() as f64 / syncs.max(1.0)).round(),
            "append": rate(append),
            "plain_write": rate(plain_write),
            "append_to_plain": (plain_write / append * 1000.0).round() / 1000.0,
            "read": rate(read),
            "plain_read": rate(plain_read),
            "read_to_plain": (plain_read / read * 1000.0).round() / 1000.0,
        })
    }
}

fn open(disk: &CountingDisk, dir: &Path) -> Outcome<DiskLog> {
    Ok(DiskLog::open(Arc::new(disk.clone()), dir, "bench", LogOptions::new(1), Arc::new(SystemClock))?)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn read_log(log: &DiskLog) -> Outcome<(u64, u64)> {
    let mut reader = log.reader(0, 0)?;
    let (mut records, mut bytes) = (0, 0);
    loop {
        let chunks = reader.read(1 << 20)?;
        if chunks.is_empty() {
            return Ok((records, bytes));
        }
        records += chunks.iter().map(|c| u64::from(c.count)).sum::<u64>();
        bytes += chunks.iter().map(|c| c.payload.len() as u64).sum::<u64>();
    }
}

fn write_plain(path: &Path, bytes: u64, syncs: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    let group = vec![b'x'; bytes.div_ceil(syncs) as usize];
    let mut left = bytes;
    while left > 0 {
        let part = left.min(group.len() as u64);
        file.write_all(&group[..part as usize])?;
        file.sync_data()?;
        left -= part;
    }
    Ok(())
}

fn read_plain(path: &Path) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let mut block = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        match file.read(&mut block)? {
            0 => return Ok(std::hint::black_box(bytes)),
            read => bytes += read as u64,
        }
    }
}

/// The real disk, with its syncs counted.
#[derive(Debug, Clone, Default)]
struct CountingDisk {
    syncs: Arc<AtomicU64>,
}

#[derive(Debug)]
struct CountingFile {
    file: Box<dyn DiskFile>,
    syncs: Arc<AtomicU64>,
}

impl Disk for CountingDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        let file = RealDisk.open(path, mode)?;
        Ok(Box::new(CountingFile { file, syncs: self.syncs.clone() }))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        RealDisk.exists(path)
    }

    fn file_len(&self, path: &Path) -> io::Result<u64> {
        RealDisk.file_len(path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }
}

impl DiskFile for CountingFile {
    fn is_at(&self, path: &Path) -> io::Result<bool> {
        self.file.is_at(path)
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.file.read_at(buffer, position)
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, position)
    }

    fn sync(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.file.sync()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len)
    }

    fn file_len(&self) -> io::Result<u64> {
        self.file.file_len()
    }
}
