//! `millstream run` as a process, and what it logs.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

use millstream_bench::Outcome;

/// A run that ends by itself.
pub struct Server {
    child: Child,
    address: Receiver<String>,
    log: Option<JoinHandle<u64>>,
    removed: u64,
}

impl Server {
    /// Starts it on any free port.
    ///
    /// # Errors
    /// It can't be started.
    pub fn start(millstream: &Path, pipeline: &Path, data: &Path) -> Outcome<Self> {
        let mut command = Command::new(millstream);
        command.arg("run").arg(pipeline).arg("--data-dir").arg(data).args(["--listen", "127.0.0.1:0"]);
        command.arg("--exit-when-idle").env("MILLSTREAM_LOG", "info").env("NO_COLOR", "1");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let (said, address) = channel();
        let log = child.stderr.take().ok_or("no standard error")?;
        let log = std::thread::spawn(move || read_log(log, |address| said.send(address).is_ok()));
        Ok(Self { child, address, log: Some(log), removed: 0 })
    }

    /// Waits until it runs; host and port.
    ///
    /// # Errors
    /// It ends before that.
    pub fn url(&self) -> Outcome<String> {
        self.address.recv().map_err(|_| "millstream ended before it ran".into())
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// It ends with another exit code than 0.
    pub fn wait(&mut self) -> Outcome<()> {
        let status = self.child.wait()?;
        if let Some(log) = self.log.take() {
            self.removed = log.join().map_err(|_| "reading the log failed")?;
        }
        if status.success() { Ok(()) } else { Err(format!("millstream ended with {status}").into()) }
    }

    /// How many segments it had removed when it ended.
    pub fn segments_removed(&self) -> u64 {
        self.removed
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Where it has ended, there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tells where it listens, and counts the segments that were removed.
fn read_log(log: ChildStderr, said: impl Fn(String) -> bool) -> u64 {
    let mut removed = 0;
    for line in BufReader::new(log).lines().map_while(Result::ok) {
        if let Some((_, url)) = line.split_once("running; http://") {
            let address = url.split([' ', '/', ',']).next().unwrap_or_default();
            // Nobody waits for it twice.
            let _ = said(address.to_owned());
        }
        if line.contains("old segments removed") {
            let segments = line.split_once("segments=").map(|(_, rest)| rest.split_whitespace().next());
            removed += segments.flatten().and_then(|count| count.parse::<u64>().ok()).unwrap_or(1);
        }
    }
    removed
}
