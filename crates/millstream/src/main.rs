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
            millstream::errln!("millstream: {e}");
            ExitCode::from(match e.kind() {
                millstream_core::ErrorKind::Config => 2,
                _ => 1,
            })
        }
    }
}
