//! Runs a program and says what it took.

use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::Outcome;

/// Linux reports process times in hundredths of a second, whatever the kernel's own tick.
const TICKS_PER_S: f64 = 100.0;
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What a process took, from before it was started until after it had ended.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Wall time.
    pub wall_s: f64,
    /// Processor time of all its threads, up to the last look (every 5 ms).
    pub cpu_s: f64,
    /// Largest resident set (`VmHWM`).
    pub peak_rss_bytes: u64,
}

impl Usage {
    /// Takes the figures of a process that still runs; those of one that is gone stay as they are.
    pub fn look(&mut self, pid: u32) {
        if let Some(bytes) = peak_rss_bytes(pid) {
            self.peak_rss_bytes = self.peak_rss_bytes.max(bytes);
        }
        if let Some(seconds) = cpu_s(pid) {
            self.cpu_s = self.cpu_s.max(seconds);
        }
    }
}

/// Runs a command to its end.
///
/// # Errors
/// It can't be started, or ends with another exit code than 0.
pub fn run(command: &mut Command) -> Outcome<Usage> {
    let started = Instant::now();
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().map_err(|e| format!("{command:?}: {e}"))?;
    let mut usage = Usage::default();
    let status = wait(&mut child, &mut usage)?;
    usage.wall_s = started.elapsed().as_secs_f64();
    if !status.success() {
        return Err(format!("{command:?} ended with {status}").into());
    }
    Ok(usage)
}

fn wait(child: &mut Child, usage: &mut Usage) -> Outcome<ExitStatus> {
    loop {
        usage.look(child.id());
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The largest resident set of a process so far.
pub fn peak_rss_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

fn cpu_s(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold blanks. Behind it: state is the first field, utime and stime are 12 and 13.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_S)
}
