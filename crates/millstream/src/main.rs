//! The `millstream` command.

use std::process::ExitCode;

use clap::Parser;
use millstream::commands::{Cli, Failed};

/// Batches of columns are many short-lived pieces from several threads, which the C library's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match millstream::commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed::Said(code)) => ExitCode::from(code),
        Err(Failed::Error(e)) => {
            // What a record or a server says in it does not begin a line of its own.
            millstream::errln!("millstream: {}", e.to_string().replace('\n', "\n  "));
            ExitCode::from(match e.kind() {
                millstream_core::ErrorKind::Config => 2,
                _ => 1,
            })
        }
    }
}
