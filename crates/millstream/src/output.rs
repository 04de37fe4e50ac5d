//! What commands print. A reader that closes the pipe (`… | head -1`) ends the command quietly, and what comes from
//! records is escaped on a terminal.

use std::fmt;
use std::io::{BufWriter, ErrorKind, IsTerminal, Write};

use millstream_core::terminal::{Escapes, SafeWriter, escape};

/// Prints a line to standard output.
#[macro_export]
macro_rules! outln {
    () => { $crate::output::line(format_args!("")) };
    ($($arg:tt)*) => { $crate::output::line(format_args!($($arg)*)) };
}

/// Prints a line to standard error.
#[macro_export]
macro_rules! errln {
    ($($arg:tt)*) => { $crate::output::error_line(format_args!($($arg)*)) };
}

/// Prints a line to standard output; the end of the process where nobody reads it any more.
pub fn line(text: fmt::Arguments<'_>) {
    let text = format!("{text}\n");
    let mut out = std::io::stdout().lock();
    let text = if out.is_terminal() { escape(&text, Escapes::Text) } else { text.as_str().into() };
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    if let Err(e) = written {
        drop(out);
        if e.kind() != ErrorKind::BrokenPipe {
            error_line(format_args!("millstream: standard output can't be written: {e}"));
        }
        // A closed pipe is what `head` does when it has enough: no failure. Nothing is lost by an end at any place.
        std::process::exit(i32::from(e.kind() != ErrorKind::BrokenPipe));
    }
}

/// Prints a line to standard error, if anybody reads it.
pub fn error_line(text: fmt::Arguments<'_>) {
    let text = format!("{text}\n");
    let mut out = std::io::stderr().lock();
    let text = if out.is_terminal() { escape(&text, Escapes::Text) } else { text.as_str().into() };
    // There is no other place to say that this one is closed.
    let _ = out.write_all(text.as_bytes());
}

/// Standard output for rows, buffered; escaped where it is a terminal.
pub fn rows(escapes: Escapes) -> impl Write {
    let out = std::io::stdout();
    let escapes = out.is_terminal().then_some(escapes);
    SafeWriter::new(BufWriter::new(out), escapes)
}

/// True where a person reads standard output.
pub fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// True where colours and moving bars are wanted on standard error: a terminal that can show them, and nobody said no
/// (<https://no-color.org>).
pub fn is_lively() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    std::io::stderr().is_terminal() && !dumb && !set("NO_COLOR") && std::env::var("CLICOLOR").as_deref() != Ok("0")
}
