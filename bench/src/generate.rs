//! News records as a wire would send them: JSON Lines of about 400 bytes, always the same for the same number.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::Outcome;

/// The file that both sides read.
#[derive(Debug)]
pub struct Input {
    /// The file.
    pub path: PathBuf,
    /// Lines in it.
    pub records: u64,
    /// Its size.
    pub bytes: u64,
    /// Records that pass the filter: `language = 'en' AND urgency <= 8`.
    pub passing: u64,
}

const WORDS: [&str; 32] = [
    "harbour", "rates", "hold", "after", "strong", "quarter", "analysts", "expect", "record", "shipping", "week",
    "prices", "minister", "talks", "storm", "coast", "central", "bank", "growth", "exports", "launch", "market",
    "union", "court", "ruling", "energy", "grid", "summit", "travel", "demand", "climbs", "falls",
];
const LANGUAGES: [&str; 8] = ["en", "en", "en", "en", "en", "en", "de", "fr"];
const SOURCES: [&str; 6] = ["Reuters", "AP", "AFP", "DPA", "Kyodo", "EFE"];
const SECTIONS: [&str; 5] = ["business", "politics", "science", "sport", "weather"];

/// Makes records one after another.
#[derive(Debug)]
pub struct Generator {
    next_id: u64,
    random: Random,
}

/// Numbers that look like chance and are always the same.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// Other numbers for each seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// One below `limit`. Knuth's linear congruential generator (MMIX), its upper bits.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

impl Default for Generator {
    fn default() -> Self {
        Self::seeded(7)
    }
}

impl Generator {
    /// Begins with this id.
    pub fn after(next_id: u64) -> Self {
        Self { next_id, ..Self::default() }
    }

    /// The same ids with other contents.
    pub fn seeded(seed: u64) -> Self {
        Self { next_id: 0, random: Random::new(seed) }
    }

    /// Appends a record with this id as a line.
    pub fn write_id(&mut self, id: u64, line: &mut String) {
        self.next_id = id;
        self.write(None, line);
    }

    /// Appends the next record that passes the filter as a line.
    pub fn write_passing(&mut self, sent_at_us: i64, line: &mut String) {
        let before = line.len();
        while !self.write(Some(sent_at_us), line) {
            line.truncate(before);
        }
    }

    /// Appends the next record as a line; true where it passes the filter. `sent_at_us` is in it where given.
    pub fn write(&mut self, sent_at_us: Option<i64>, line: &mut String) -> bool {
        let id = self.next_id;
        self.next_id += 1;
        let (language, urgency) = (self.pick(&LANGUAGES), self.below(10) + 1);
        let _ = write!(line, r#"{{"id":"wire-{id:010}","headline":""#);
        self.sentence(8, line);
        line.push_str(r#"","body":""#);
        self.sentence(24, line);
        // Some text needs more than copying.
        line.push_str(if id.is_multiple_of(10) { r#" \"quoted\" \u20ac5 – done"# } else { "" });
        let (source, section, words) = (self.pick(&SOURCES), self.pick(&SECTIONS), self.below(900) + 100);
        let _ = write!(
            line,
            r#"","language":"{language}","source":"{source}","section":"{section}","urgency":{urgency},"words":{words},"published_at":"2026-03-{:02}T{:02}:{:02}:{:02}.{:03}Z""#,
            id / 86_400 % 28 + 1,
            id / 3600 % 24,
            id / 60 % 60,
            id % 60,
            self.below(1000),
        );
        if let Some(us) = sent_at_us {
            let _ = write!(line, r#","sent_at":{us}"#);
        }
        line.push_str("}\n");
        language == "en" && urgency <= 8
    }

    fn sentence(&mut self, words: usize, line: &mut String) {
        for i in 0..words {
            if i > 0 {
                line.push(' ');
            }
            line.push_str(self.pick(&WORDS));
        }
    }

    fn pick(&mut self, of: &[&'static str]) -> &'static str {
        of[self.below(of.len() as u64) as usize]
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random.below(limit)
    }
}

/// Writes `records` records into `dir/wire.jsonl`.
///
/// # Errors
/// The disk refuses.
pub fn input(dir: &Path, records: u64) -> Outcome<Input> {
    std::fs::create_dir_all(dir)?;
    file(dir.join("wire.jsonl"), Generator::default(), records)
}

/// Writes the next `records` records of a generator into the file at `path`.
///
/// # Errors
/// The disk refuses.
pub fn file(path: PathBuf, mut generator: Generator, records: u64) -> Outcome<Input> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(&path)?);
    let (mut line, mut bytes, mut passing) = (String::new(), 0, 0);
    for _ in 0..records {
        line.clear();
        passing += u64::from(generator.write(None, &mut line));
        bytes += line.len() as u64;
        out.write_all(line.as_bytes())?;
    }
    out.into_inner()?.sync_all()?;
    Ok(Input { path, records, bytes, passing })
}
