//! The `millstream` command.

use std::process::ExitCode;

use clap::Parser;
use millstream::commands::{Cli, Failed};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match millstream::commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed::Said(code)) => ExitCode::from(code),
        Err(Failed::Error(e)) => {
            eprintln!("millstream: {e}");
            ExitCode::from(match e.kind() {
                millstream_core::ErrorKind::Config => 2,
                _ => 1,
            })
        }
    }
}
