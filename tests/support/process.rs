//! The binary as a process that runs beside the test, and can be killed.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Long enough for the slowest machine; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A running `millstream run`; killed where the test ends before it.
pub struct Server {
    child: Child,
    log: Arc<Log>,
    readers: Vec<JoinHandle<()>>,
    output: Arc<Mutex<Vec<u8>>>,
}

#[derive(Default)]
struct Log {
    lines: Mutex<(String, bool)>,
    more: Condvar,
}

impl Server {
    /// Starts the command.
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Log::default());
        let output = Arc::new(Mutex::new(Vec::new()));
        let (stderr, mut stdout) = (child.stderr.take().unwrap(), child.stdout.take().unwrap());
        let (sink, bytes) = (log.clone(), output.clone());
        let read_log = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut lines = sink.lines.lock().unwrap();
                lines.0.push_str(&line);
                lines.0.push('\n');
                sink.more.notify_all();
            }
            sink.lines.lock().unwrap().1 = true;
            sink.more.notify_all();
        });
        let read_output = std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(read) = stdout.read(&mut piece) {
                if read == 0 {
                    break;
                }
                bytes.lock().unwrap().extend_from_slice(&piece[..read]);
            }
        });
        Self { child, log, readers: vec![read_log, read_output], output }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has logged so far.
    pub fn log(&self) -> String {
        self.log.lines.lock().unwrap().0.clone()
    }

    /// Everything it has printed so far.
    pub fn printed(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().unwrap()).into_owned()
    }

    /// Waits until `text` is in the log.
    pub fn wait_for_log(&self, text: &str) {
        let lines = self.log.lines.lock().unwrap();
        let until = |l: &mut (String, bool)| !l.0.contains(text) && !l.1;
        let (lines, _) = self.log.more.wait_timeout_while(lines, PATIENCE, until).unwrap();
        assert!(lines.0.contains(text), "`{text}` was never logged:\n{}", lines.0);
    }

    /// Waits until it runs; `http://127.0.0.1:…`, or `https://`.
    pub fn url(&self) -> String {
        self.wait_for_log("running; http");
        let log = self.log();
        let (_, rest) = log.split_once("running; ").unwrap();
        rest.split_whitespace().next().unwrap().to_owned()
    }

    /// True once it has said that it runs.
    pub fn is_running(&self) -> bool {
        self.log().contains("running; http")
    }

    /// `kill -9`. True where that is what ended it; false where it had ended by itself.
    pub fn kill(&mut self) -> bool {
        use std::os::unix::process::ExitStatusExt;
        let _ = self.child.kill();
        let killed = self.child.wait().unwrap().signal() == Some(9);
        self.join();
        killed
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits until it ends.
    pub fn wait(&mut self) -> ExitStatus {
        let give_up = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.join();
                return status;
            }
            if Instant::now() > give_up {
                self.kill();
                panic!("it did not end by itself:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits at most `time` for it to end.
    pub fn ended_within(&mut self, time: Duration) -> Option<ExitStatus> {
        let give_up = Instant::now() + time;
        while Instant::now() < give_up {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.join();
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        None
    }

    fn join(&mut self) {
        self.readers.drain(..).for_each(|reader| reader.join().unwrap());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks again and again until the answer is there.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < give_up, "it never came: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
