//! How far long work is: a bar on a terminal, a line now and then otherwise. On stderr, so that output stays output.

use indicatif::{ProgressBar, ProgressStyle};

/// Lines that are printed in all where there is no terminal.
const LINES: u64 = 10;

/// Work of a known amount.
#[derive(Debug)]
pub struct Progress {
    what: String,
    total: u64,
    /// None where there is no terminal.
    bar: Option<ProgressBar>,
    lines_printed: u64,
}

impl Progress {
    /// Work called `what`, of `total` pieces of a `unit` (`bytes` are shown as KiB, MiB, …).
    pub fn new(what: impl Into<String>, total: u64, unit: &str) -> Self {
        let what = what.into();
        let bar = crate::output::is_lively().then(|| {
            let counts = match unit {
                "bytes" => "{bytes}/{total_bytes} ({bytes_per_sec}, {eta})".to_owned(),
                unit => format!("{{pos}}/{{len}} {unit} ({{per_sec}}, {{eta}})"),
            };
            let style = ProgressStyle::with_template(&format!("{{msg}} [{{wide_bar}}] {counts}"));
            let bar = ProgressBar::new(total).with_message(what.clone());
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "))
        });
        Self { what, total, bar, lines_printed: 0 }
    }

    /// `done` pieces are done.
    pub fn set(&mut self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            return;
        }
        let lines = (done * LINES).checked_div(self.total).unwrap_or(LINES).min(LINES);
        if lines > self.lines_printed {
            self.lines_printed = lines;
            crate::errln!("{}: {done} of {}", self.what, self.total);
        }
    }
}

/// Work that usually takes no time, and is only shown where it does: `what`, told how many of how many are done.
pub fn shown_after_a_while(what: &'static str, unit: &'static str) -> impl Fn(u64, u64) + Send + Sync + 'static {
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);
    let begun = std::time::Instant::now();
    let shown: parking_lot::Mutex<Option<Progress>> = parking_lot::Mutex::default();
    move |done, all| {
        let mut shown = shown.lock();
        if done >= all {
            // Its bar goes away.
            if let Some(mut progress) = shown.take() {
                progress.set(all);
            }
        } else if shown.is_some() || begun.elapsed() >= PATIENCE {
            shown.get_or_insert_with(|| Progress::new(what, all, unit)).set(done);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
