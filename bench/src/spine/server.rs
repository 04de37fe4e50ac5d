//! `millstream run` as a server that is waited for, asked and ended.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::process::Usage;
use crate::{Outcome, pipeline};

/// How long it may take to start, or to stop.
const PATIENCE: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// What it logs when it listens, followed by its address.
const RUNNING: &str = "running; http://";

/// A running pipeline; killed where it was not ended before.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: SocketAddr,
    /// From its start until `/readyz` said that all is open.
    pub ready_s: f64,
    usage: Usage,
}

impl Server {
    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// It ended before, or took minutes; with what it logged.
    pub fn start(millstream: &Path, config: &Path, dir: &Path) -> Outcome<Self> {
        let started = Instant::now();
        let mut command = pipeline::command(millstream, config, dir);
        command.env("MILLSTREAM_LOG", "info").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let log = child.stderr.take().ok_or("no standard error")?;
        let (send, addresses) = channel();
        std::thread::spawn(move || {
            let mut so_far = String::new();
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                // Read to its end, so that it never waits for us; kept only until it runs.
                if let Some((_, rest)) = line.split_once(RUNNING) {
                    let _ = send.send(Ok(rest.split_whitespace().next().unwrap_or_default().to_owned()));
                } else if so_far.len() < 1 << 16 {
                    so_far.push_str(&line);
                    so_far.push('\n');
                }
            }
            let _ = send.send(Err(so_far));
        });
        let mut server = Self { child, address: ([127, 0, 0, 1], 0).into(), ready_s: 0.0, usage: Usage::default() };
        server.address = match addresses.recv_timeout(PATIENCE) {
            Ok(Ok(address)) => address.parse().map_err(|e| format!("{address}: {e}"))?,
            Ok(Err(log)) => return Err(format!("Millstream did not start:\n{log}").into()),
            Err(_) => return Err("Millstream did not start in five minutes".into()),
        };
        while !Client::connect(server.address)?.get("/readyz")? {
            if started.elapsed() > PATIENCE {
                return Err("Millstream is not ready after five minutes".into());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        server.ready_s = started.elapsed().as_secs_f64();
        Ok(server)
    }

    /// Its standard output, once.
    ///
    /// # Errors
    /// It was taken already.
    pub fn output(&mut self) -> Outcome<ChildStdout> {
        self.child.stdout.take().ok_or_else(|| "the output was taken already".into())
    }

    /// A connection to it.
    ///
    /// # Errors
    /// It does not answer.
    pub fn client(&self) -> Outcome<Client> {
        Client::connect(self.address)
    }

    /// What it has taken so far; the wall time is not filled in.
    pub fn usage(&mut self) -> Usage {
        self.usage.look(self.child.id());
        self.usage
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// It does not end, or with another exit code than 0.
    pub fn stop(mut self) -> Outcome<Usage> {
        let usage = self.usage();
        let sent = Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status()?;
        let started = Instant::now();
        while sent.success() && started.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait()? {
                return if status.success() { Ok(usage) } else { Err(format!("it ended with {status}").into()) };
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Err("Millstream does not stop".into())
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// It had ended already.
    pub fn kill(mut self) -> Outcome<Usage> {
        let usage = self.usage();
        self.child.kill()?;
        self.child.wait()?;
        Ok(usage)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail where it has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection of HTTP/1.1 that is kept: little more than the socket, so that its own time does not count.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
    request: Vec<u8>,
    line: String,
}

impl Client {
    fn connect(address: SocketAddr) -> Outcome<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream), request: Vec::new(), line: String::new() })
    }

    /// True where the answer is 200.
    ///
    /// # Errors
    /// The connection fails.
    pub fn get(&mut self, path: &str) -> Outcome<bool> {
        Ok(self.ask("GET", path, "")?.0 == 200)
    }

    /// Sends one body, and waits for the answer.
    ///
    /// # Errors
    /// The connection fails, or the answer is not 200.
    pub fn post(&mut self, path: &str, body: &str) -> Outcome<()> {
        match self.ask("POST", path, body)? {
            (200, _) => Ok(()),
            (status, answer) => Err(format!("POST {path}: {status} {answer}").into()),
        }
    }

    fn ask(&mut self, method: &str, path: &str, body: &str) -> Outcome<(u16, String)> {
        self.request.clear();
        write!(
            self.request,
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        self.stream.get_mut().write_all(&self.request)?;
        let status = self.header()?.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or("no HTTP answer")?;
        let mut length = 0;
        loop {
            let line = self.header()?;
            if line.is_empty() {
                break;
            }
            if let Some(bytes) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = bytes.trim().parse()?;
            }
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer)?;
        Ok((status, String::from_utf8_lossy(&answer).into_owned()))
    }

    fn header(&mut self) -> Outcome<&str> {
        self.line.clear();
        if self.stream.read_line(&mut self.line)? == 0 {
            return Err("the server closed the connection".into());
        }
        Ok(self.line.trim_end())
    }
}
