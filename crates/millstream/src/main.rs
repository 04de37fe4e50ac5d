//! The `millstream` command.

use std::process::ExitCode;

use clap::Parser;
use millstream::commands::{Cli, Failed};

/// Batches of columns are many short-lived pieces from several threads, which the C library's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` in mimalloc's header: for how many milliseconds freed pages are kept.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Freed pages go back at once. Batches wander from thread to thread; each thread would keep pages for the next, which
/// cost half of all memory in a run of the benchmark, and saved no time.
fn keep_no_freed_pages() {
    // SAFETY: it stores a number in a table of the allocator, which it checks the index of.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 0) };
}

fn main() -> ExitCode {
    keep_no_freed_pages();
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
