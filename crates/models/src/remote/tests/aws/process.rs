//! Programs that print credentials.
#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::credentials::{Home, assert_answer};
use super::*;
use crate::remote::aws::credentials::process::TIMEOUT;

const GOOD: &str = "{\"Version\":1,\"AccessKeyId\":\"AKID\",\"SecretAccessKey\":\"hush\",\"SessionToken\":\"t\",\
\"Expiration\":\"2015-08-30T13:36:00Z\"}";

fn home(command: &str) -> Home {
    Home::new(&format!("[profile tool]\ncredential_process = {command}\n"), "").with("AWS_PROFILE", "tool")
}

#[tokio::test]
async fn what_a_program_prints_is_used() {
    assert_answer(&home(&format!("printf '%s' '{GOOD}'")).find().await.unwrap().unwrap());
    let forever = "echo '{\"Version\": 1, \"AccessKeyId\": \"AKID\", \"SecretAccessKey\": \"hush\"}'";
    let found = home(forever).find().await.unwrap().unwrap();
    assert_eq!((found.access_key_id(), found.session_token(), found.expiry()), ("AKID", None, None));
}

#[tokio::test]
async fn a_program_that_fails_or_prints_garbage_is_named_and_its_output_is_not_shown() {
    for (command, expected) in [
        (format!("echo '{GOOD}'; echo hush >&2; exit 3"), "failed (exit status: 3)"),
        ("/no/such/program --password hush".to_owned(), "failed (exit status: 127)"),
        ("echo 'hush {\"Version\": 1'".to_owned(), "no JSON"),
        ("true".to_owned(), "no JSON"),
        (GOOD.replace(":1,", ":2,").replacen('{', "echo '{", 1) + "'", "version 2"),
        ("echo '{\"Version\": 1, \"SecretAccessKey\": \"hush\"}'".to_owned(), "no credentials"),
        (GOOD.replace("2015-08-30T", "soon ").replacen('{', "echo '{", 1) + "'", "no credentials"),
        // More than anybody reads.
        ("yes hush".to_owned(), "failed ("),
    ] {
        let home = home(&command);
        let (kind, message) = home.failure().await;
        assert_eq!(kind, ErrorKind::Retry, "{message}");
        for part in [expected, "`tool`", home.path("config").to_str().unwrap()] {
            assert!(message.contains(part), "{part} is missing: {message}");
        }
    }
}

/// A profile whose program writes the process id of a child, and then waits for it.
fn hanging() -> (Home, PathBuf) {
    let home = home("true");
    let pid_file = home.path("pid");
    let command = format!("sleep 1000 & echo $! > {}; wait", pid_file.display());
    std::fs::write(home.path("config"), format!("[profile tool]\ncredential_process = {command}\n")).unwrap();
    (home, pid_file)
}

async fn started(pid_file: &Path) -> String {
    loop {
        match std::fs::read_to_string(pid_file) {
            Ok(pid) if pid.ends_with('\n') => return pid.trim().to_owned(),
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// Waits until a process is gone, or is only waiting for its parent to notice.
async fn gone(pid: &str) {
    let state = || {
        let ps = std::process::Command::new("ps").args(["-o", "stat=", "-p", pid]).output().unwrap();
        String::from_utf8(ps.stdout).unwrap().trim().to_owned()
    };
    for _ in 0..2_000 {
        if matches!(state().chars().next(), None | Some('Z')) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("process {pid} still runs");
}

#[tokio::test]
async fn a_program_that_hangs_is_killed_with_all_that_it_has_started() {
    let (home, pid_file) = hanging();
    let finding = tokio::spawn(async move { home.failure().await });
    let pid = started(&pid_file).await;
    tokio::time::pause();
    tokio::time::advance(TIMEOUT).await;
    let (kind, message) = finding.await.unwrap();
    tokio::time::resume();
    assert_eq!(kind, ErrorKind::Retry);
    assert!(message.contains("did not end within 60s") && message.contains("`tool`"), "{message}");
    gone(&pid).await;
}

#[tokio::test]
async fn a_program_that_nobody_waits_for_any_more_is_killed() {
    let (home, pid_file) = hanging();
    let finding = tokio::spawn(async move { home.find().await });
    let pid = started(&pid_file).await;
    finding.abort();
    assert!(finding.await.unwrap_err().is_cancelled());
    gone(&pid).await;
}
