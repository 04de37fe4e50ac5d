//! A table of many keys: how fast it is filled and updated, how fast it opens, and what memory it takes.
//!
//! ```text
//! fill      a file of fresh keys, to its end and a clean stop
//! open      start until ready
//! update    a second file, of random known keys, to its end
//! open      start until ready, with a third file to read; killed while it reads
//! open      start until ready, after the kill
//! ```
//!
//! All of it is the whole program: each record is decoded, written to the log, applied to the table, and its change
//! written to the change stream, durable. The number of rows is checked after each step.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::generate::{Generator, Random};
use crate::process::{self, Usage};
use crate::server::Server;
use crate::{Outcome, pipeline, round};

/// How long the third file is read before the kill.
const BEFORE_THE_KILL: Duration = Duration::from_secs(2);

/// A table in a folder.
struct BigTable<'a> {
    millstream: &'a Path,
    dir: &'a Path,
    config: PathBuf,
    keys: u64,
}

/// Runs all steps.
pub fn measure(millstream: &Path, dir: &Path, partitions: u32, keys: u64, updates: u64) -> Outcome<Value> {
    pipeline::clear(dir)?;
    std::fs::create_dir_all(dir.join("in"))?;
    let config = dir.join("pipeline.yaml");
    std::fs::write(&config, pipeline::plain_table(&dir.join("in"), partitions))?;
    let table = BigTable { millstream, dir, config, keys };

    eprintln!("writing {keys} records");
    table.write("1-fill.jsonl", 0..keys, 7)?;
    eprintln!("filling the table");
    let fill = table.run_to_the_end()?;
    eprintln!("  {:.1} s, {} MiB at most", fill.wall_s, fill.peak_rss_bytes >> 20);
    let opened = table.start()?;
    let open_clean_s = opened.ready_s;
    let idle = opened.stop()?;

    let mut random = Random::new(11);
    table.write("2-updates.jsonl", (0..updates).map(|_| random.below(keys)), 13)?;
    eprintln!("{updates} random updates");
    let update = table.run_to_the_end()?;
    eprintln!("  {:.1} s, {} MiB at most", update.wall_s, update.peak_rss_bytes >> 20);

    table.write("3-updates.jsonl", (0..updates).map(|_| random.below(keys)), 17)?;
    let killed = table.start()?;
    std::thread::sleep(BEFORE_THE_KILL);
    let killed = killed.kill()?;
    let opened = table.start()?;
    let open_after_kill_s = opened.ready_s;
    let after_kill = opened.stop()?;
    table.check()?;
    std::fs::remove_dir_all(dir)?;

    let peak = [&fill, &idle, &update, &killed, &after_kill].iter().map(|u| u.peak_rss_bytes).max().unwrap_or(0);
    let updating_s = update.wall_s - open_clean_s;
    Ok(json!({
        "keys": keys,
        "fill": {
            "upserts_per_s": (keys as f64 / fill.wall_s).round(),
            "wall_s": round(fill.wall_s, 2),
            "cpu_s": round(fill.cpu_s, 2),
            "peak_rss_mib": mib(&fill),
        },
        "random_updates": {
            "updates": updates,
            "upserts_per_s": if updating_s > 0.0 { (updates as f64 / updating_s).round().into() } else { Value::Null },
            "wall_s": round(update.wall_s, 2),
            "cpu_s": round(update.cpu_s, 2),
            "peak_rss_mib": mib(&update),
        },
        "open_after_clean_stop_s": round(open_clean_s, 3),
        "open_after_kill_s": round(open_after_kill_s, 3),
        "peak_rss_mib": round(peak as f64 / 1_048_576.0, 1),
    }))
}

impl BigTable<'_> {
    /// Writes a record for each id; `seed` decides what is in them.
    fn write(&self, name: &str, ids: impl Iterator<Item = u64>, seed: u64) -> Outcome<()> {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(self.dir.join("in").join(name))?);
        let mut generator = Generator::seeded(seed);
        let mut line = String::new();
        for id in ids {
            line.clear();
            generator.write_id(id, &mut line);
            out.write_all(line.as_bytes())?;
        }
        Ok(out.into_inner()?.sync_all()?)
    }

    /// Reads everything there is to read.
    fn run_to_the_end(&self) -> Outcome<Usage> {
        let mut command = pipeline::command(self.millstream, &self.config, self.dir);
        let usage = process::run(command.arg("--exit-when-idle"))?;
        self.check()?;
        Ok(usage)
    }

    fn start(&self) -> Outcome<Server> {
        Server::start(self.millstream, &self.config, self.dir)
    }

    fn check(&self) -> Outcome<()> {
        let rows = pipeline::rows_in_table(self.millstream, self.dir, "news")?;
        if rows == self.keys {
            return Ok(());
        }
        Err(format!("the table holds {rows} rows, not {}", self.keys).into())
    }
}

fn mib(usage: &Usage) -> f64 {
    round(usage.peak_rss_bytes as f64 / 1_048_576.0, 1)
}
