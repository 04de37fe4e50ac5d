//! Checks an output record by record: each that passes the filter once, no other.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use memchr::memmem;

use crate::Outcome;

const ID: &[u8] = br#""id":"wire-"#;

/// The ids of an output.
#[derive(Debug)]
pub struct Seen {
    times: Vec<u8>,
    lines: u64,
}

impl Seen {
    /// None yet, of an input of `records` records.
    pub fn new(records: u64) -> Self {
        Self { times: vec![0; records as usize], lines: 0 }
    }

    /// Adds the lines of one file.
    ///
    /// # Errors
    /// A line without an id, or with one that is not in the input.
    pub fn read_file(&mut self, path: &Path) -> Outcome<()> {
        let mut lines = BufReader::with_capacity(1 << 20, File::open(path)?);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            let times = id(&line).and_then(|id| self.times.get_mut(id)).ok_or_else(|| {
                format!("{}: a line with no known id: {}", path.display(), String::from_utf8_lossy(&line))
            })?;
            *times = times.saturating_add(1);
            self.lines += 1;
            line.clear();
        }
        Ok(())
    }

    /// Each line another record, and as many as pass the filter.
    ///
    /// # Errors
    /// Says what is missing or double.
    pub fn check(&self, whose: &str, passing: u64) -> Outcome<()> {
        let double = self.times.iter().filter(|&&times| times > 1).count();
        if double == 0 && self.lines == passing {
            return Ok(());
        }
        Err(format!("{whose} hold {} records, {double} ids more than once; {passing} pass the filter", self.lines)
            .into())
    }
}

fn id(line: &[u8]) -> Option<usize> {
    let at = memmem::find(line, ID)? + ID.len();
    let digits = line[at..].iter().take_while(|b| b.is_ascii_digit());
    Some(digits.fold(0, |n, b| n * 10 + usize::from(b - b'0')))
}
