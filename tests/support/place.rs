//! A folder with a pipeline file, its input, its data and its output.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use super::json_lines;
use super::process::Server;

/// A folder of one test. Commands run in it, with `pipeline.yaml` and `data` in it.
pub struct Place {
    dir: TempDir,
    env: Vec<(String, String)>,
}

impl Place {
    /// A new folder with that pipeline file.
    pub fn new(pipeline: &str) -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap(), env: Vec::new() };
        place.write("pipeline.yaml", pipeline);
        place
    }

    /// The same with an environment variable for every command.
    pub fn with_env(mut self, name: &str, value: &str) -> Self {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.into(), value.into()));
        self
    }

    /// A path in the folder.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    /// Writes a file, with the folders that it needs.
    pub fn write(&self, relative: &str, content: impl AsRef<[u8]>) {
        let path = self.path(relative);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// `millstream ARGS` in the folder, with nothing of this process's own settings. `MILLSTREAM_BINARY` names another
    /// binary than the one that was built with the tests.
    pub fn command(&self, args: &[&str]) -> Command {
        let binary = std::env::var_os("MILLSTREAM_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_millstream").into());
        let mut command = Command::new(binary);
        let names =
            ["DATA_DIR", "LISTEN", "MODEL", "TOKEN", "WITHOUT_TOKEN", "ALLOWED_HOSTS", "ALLOWED_ORIGINS", "URL", "LOG"];
        let of_tls = ["TLS_CERT", "TLS_KEY", "TLS_CLIENT_CA", "CA", "CLIENT_CERT", "CLIENT_KEY"];
        for name in names.into_iter().chain(of_tls).chain(["TOKENS", "AUDIT_LOG"]) {
            command.env_remove(format!("MILLSTREAM_{name}"));
        }
        command.args(args).current_dir(self.dir.path()).env("NO_COLOR", "1");
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command to its end, whatever that is.
    pub fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a command that must end well, and gives what it prints.
    pub fn stdout(&self, args: &[&str]) -> String {
        let output = self.output(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "millstream {args:?}: {}\n{stderr}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must fail with that code, and gives what it says.
    pub fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = self.output(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "millstream {args:?}\n{stderr}");
        stderr
    }

    /// The command with at most so many file descriptors.
    pub fn with_descriptors(&self, most: usize, args: &[&str]) -> Command {
        let command = self.command(args);
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {most} && exec \"$0\" \"$@\"")]);
        shell.arg(command.get_program()).args(command.get_args()).current_dir(self.dir.path());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        shell
    }

    /// Starts `millstream run … --data-dir data` with more arguments.
    pub fn start(&self, more: &[&str]) -> Server {
        let mut args = vec!["run", "pipeline.yaml", "--data-dir", "data", "--listen", "127.0.0.1:0"];
        args.extend(more);
        Server::spawn(self.command(&args))
    }

    /// Runs the pipeline until everything is done.
    pub fn run(&self) {
        let mut server = self.start(&["--exit-when-idle"]);
        let status = server.wait();
        assert!(status.success(), "run: {status}\n{}", server.log());
    }

    /// Rows of a query on the data folder at rest.
    pub fn query(&self, sql: &str) -> Vec<Value> {
        json_lines(&self.stdout(&["query", sql, "--data-dir", "data", "--format", "jsonl"]))
    }

    /// Everything in a stream, in order of partition and offset: `{partition, offset, record}`.
    pub fn tap(&self, stream: &str) -> Vec<Value> {
        json_lines(&self.stdout(&["tap", stream, "--no-follow", "--from", "earliest", "--data-dir", "data"]))
    }

    /// The dead letters.
    pub fn dead_letters(&self) -> Vec<Value> {
        json_lines(&self.stdout(&["dlq", "list", "--data-dir", "data", "--format", "jsonl"]))
    }

    /// The bytes of a dead letter.
    pub fn raw(&self, id: &str) -> Vec<u8> {
        let output = self.output(&["dlq", "show", id, "--raw", "--data-dir", "data"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// Sends dead letters of the data folder at rest through again; gives what the command says.
    pub fn redrive(&self) -> String {
        self.stdout(&["dlq", "redrive", "--all", "--pipeline", "pipeline.yaml", "--data-dir", "data"])
    }

    /// Rows of all finished files of a file sink.
    pub fn sink_rows(&self, folder: &str) -> Vec<Value> {
        let mut files: Vec<PathBuf> = files_below(&self.path(folder));
        files.retain(|path| path.extension().is_some_and(|e| e == "jsonl"));
        files.sort();
        files.iter().flat_map(|path| json_lines(&std::fs::read_to_string(path).unwrap())).collect()
    }

    /// Names of files that a crash has left half written.
    pub fn unfinished(&self, folder: &str) -> Vec<PathBuf> {
        files_below(&self.path(folder)).into_iter().filter(|p| p.extension().is_some_and(|e| e == "part")).collect()
    }
}

/// All files below a folder; none where it is not there.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}
