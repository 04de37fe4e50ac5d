//! Credentials that a program prints: `credential_process` of a profile. Source: "Process credential provider" in the
//! AWS SDKs and Tools Reference Guide.
//!
//! What the program writes to its standard error is not read: it may hold secrets. The command itself is not shown
//! either, for the same reason.

use std::process::Stdio;
use std::time::Duration;

use aws_credential_types::Credentials;
use millstream_core::{Error, Result, Secret};
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::answer::from_json;

/// A program may ask a server and wait for it.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);
/// More than any credentials need.
const OUTPUT_BYTES_MAX: u64 = 64 << 10;

/// Runs the command of a profile and reads what it prints.
///
/// # Errors
/// `Retry`: it can't be started, fails, takes too long, or prints no credentials.
pub(crate) async fn run(command: &Secret, profile: &str) -> Result<Credentials> {
    let whom = format!("the credential_process of profile `{profile}`");
    let (shell, flag) = if cfg!(windows) { ("cmd.exe", "/C") } else { ("sh", "-c") };
    let mut shell = Command::new(shell);
    shell.args([flag, command.expose()]).stderr(Stdio::null());
    let output = output(shell, &whom, TIMEOUT).await?;
    let answer: Value = serde_json::from_slice(&output).unwrap_or_default();
    match answer.get("Version").and_then(Value::as_u64) {
        Some(1) => from_json(&whom, &String::from_utf8_lossy(&output), "SessionToken"),
        Some(version) => Err(Error::retry(format!("{whom} printed version {version}; version 1 is known"))),
        None => {
            Err(Error::retry(format!("{whom} printed no JSON with a `Version`; run it by hand to see what it prints")))
        }
    }
}

/// What a program prints, at most 64 KiB. It is killed, with all that it has started, where it takes longer than
/// `timeout`.
///
/// # Errors
/// `Retry`: it can't be started, fails, or takes too long.
pub(crate) async fn output(mut program: Command, whom: &str, timeout: Duration) -> Result<Vec<u8>> {
    program.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    #[cfg(unix)]
    program.process_group(0);
    let mut child = program.spawn().map_err(|e| Error::retry(format!("can't start {whom}")).caused_by(e))?;
    let stdout = child.stdout.take().ok_or_else(|| Error::bug("a child process has no standard output"))?;
    let mut group = Group(child.id());
    let all = async {
        let mut output = Vec::new();
        // The pipe is closed after that: a program that never stops printing ends there.
        stdout.take(OUTPUT_BYTES_MAX).read_to_end(&mut output).await?;
        Ok((child.wait().await?, output))
    };
    let Ok(ended) = tokio::time::timeout(timeout, all).await else {
        return Err(Error::retry(format!(
            "{whom} did not end within {timeout:?} and was killed; run it by hand to see what it waits for"
        )));
    };
    let (ended, output) =
        ended.map_err(|e: std::io::Error| Error::retry(format!("can't read from {whom}")).caused_by(e))?;
    // What it has left running is its own affair.
    group.0 = None;
    if !ended.success() {
        return Err(Error::retry(format!("{whom} failed ({ended}); run it by hand to see why")));
    }
    Ok(output)
}

/// The shell and what it has started, which are killed together when nobody waits for them any more: the time is over,
/// or the record that needed the credentials has given up.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Some(pid) = self.0.and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())) {
            // It may have ended by itself.
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}
