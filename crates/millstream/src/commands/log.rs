//! The log of the process: lines on standard error, filtered by `MILLSTREAM_LOG`.
//!
//! What a record or a server says may be in one. It is shown, never obeyed, and does not begin a line of its own,
//! whether a terminal or a file reads the log: a file is looked at on a terminal later.

use std::fmt;
use std::io::Stderr;

use millstream_core::terminal::{Escapes, SafeWriter, escape_line};
use millstream_core::{Error, Result};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Directive;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::LogFormat;

/// The variable that says what is logged.
const VARIABLE: &str = "MILLSTREAM_LOG";
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// Our own crates.
const OURS: [&str; 7] = [
    "millstream",
    "millstream_core",
    "millstream_storage",
    "millstream_sql",
    "millstream_models",
    "millstream_connectors",
    "millstream_engine",
];
/// Libraries whose own words say nothing to a user: what they warn of comes back to us as an error, and is said then.
const QUIET: [&str; 5] = ["slatedb=off", "lapin=off", "object_store=off", "tract_core=error", "ort=error"];

/// Starts the log.
///
/// # Errors
/// `Config`: the variable does not say what it should.
pub fn start(format: LogFormat) -> Result<()> {
    let wanted = std::env::var(VARIABLE).unwrap_or_default();
    let lively = crate::output::is_lively();
    let builder = tracing_subscriber::fmt().with_env_filter(filter(&wanted)?).with_ansi(lively);
    match format {
        LogFormat::Text => builder.with_writer(std::io::stderr).event_format(Lines).init(),
        LogFormat::Json => builder.json().flatten_event(true).with_writer(json_writer).init(),
    }
    Ok(())
}

/// JSON writes out most of what a terminal obeys itself, but not all.
fn json_writer() -> SafeWriter<Stderr> {
    SafeWriter::new(std::io::stderr(), Some(Escapes::Json))
}

/// An event as one line: time, level, message and fields.
struct Lines;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut said = String::new();
        context.format_fields(Writer::new(&mut said), event)?;
        let (level, said) = (*event.metadata().level(), escape_line(&said));
        if !out.has_ansi_escapes() {
            return writeln!(out, "{time} {level:>5} {said}");
        }
        let colour = match level {
            Level::ERROR => 31,
            Level::WARN => 33,
            Level::INFO => 32,
            Level::DEBUG => 34,
            Level::TRACE => 35,
        };
        writeln!(out, "\x1b[2m{time}\x1b[0m \x1b[{colour}m{level:>5}\x1b[0m {said}")
    }
}

/// A level for our own crates, others at warnings; and crates by name: `debug`, `info,slatedb=debug`.
fn filter(wanted: &str) -> Result<EnvFilter> {
    let parts: Vec<&str> = wanted.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    let mut level = "info";
    let mut named = Vec::new();
    for part in parts {
        let lower = part.to_ascii_lowercase();
        if let Some(known) = LEVELS.iter().find(|known| **known == lower) {
            level = known;
        } else {
            let of_level =
                part.rsplit_once('=').is_some_and(|(_, l)| LEVELS.contains(&l.to_ascii_lowercase().as_str()));
            let directive = part.parse::<Directive>().ok().filter(|_| of_level);
            named.push(directive.ok_or_else(|| wrong(part))?);
        }
    }
    // What a library says is of interest only where it is named, or at `trace`.
    let others = match level {
        "off" | "error" => level,
        "trace" => "debug",
        _ => "warn",
    };
    let mut filter = EnvFilter::new(others);
    // What administrators do is logged at every level but `off`.
    let audit = if level == "off" { "audit=off" } else { "audit=info" };
    let ours = OURS.iter().map(|name| format!("{name}={level}")).chain([audit.to_owned()]);
    let quiet = QUIET.iter().filter(|_| level != "trace").map(|directive| (*directive).to_owned());
    for directive in ours.chain(quiet) {
        filter = filter.add_directive(directive.parse().map_err(|e| Error::bug("log filter").caused_by(e))?);
    }
    Ok(named.into_iter().fold(filter, EnvFilter::add_directive))
}

fn wrong(part: &str) -> Error {
    Error::config(format!(
        "{VARIABLE}: `{part}` is no level: write one of {}, or CRATE=LEVEL, several with commas (`info,slatedb=debug`)",
        LEVELS.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    const RECORD: &str = "a\nWARN b\r\x1b[2J\u{9b}31m\u{202e}c";

    fn logged(format: LogFormat, lively: bool) -> String {
        let page = Page::default();
        let writer = page.clone();
        let builder = tracing_subscriber::fmt().with_ansi(lively);
        let say = || {
            tracing::warn!(text = RECORD, shown = %RECORD, "it says {RECORD}");
            tracing::info!("second");
        };
        match format {
            LogFormat::Text => {
                let log = builder.with_writer(move || writer.clone()).event_format(Lines).finish();
                tracing::subscriber::with_default(log, say);
            }
            LogFormat::Json => {
                let writer = move || SafeWriter::new(writer.clone(), Some(Escapes::Json));
                tracing::subscriber::with_default(builder.json().flatten_event(true).with_writer(writer).finish(), say);
            }
        }
        String::from_utf8(page.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn what_a_record_says_is_one_line_of_the_log_and_nothing_is_obeyed() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let log = logged(format, false);
            assert_eq!(log.lines().count(), 2, "{log}");
            assert!(!log.contains(millstream_core::terminal::is_unsafe), "{log:?}");
            assert!(log.lines().nth(1).unwrap().contains("second"));
        }
        let json = logged(LogFormat::Json, false);
        let first: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
        assert_eq!(first["message"], format!("it says {RECORD}"), "nothing is lost");
        let lively = logged(LogFormat::Text, true);
        assert!(
            lively.contains("\x1b[33m") && !lively.contains("\x1b[2J") && lively.lines().count() == 2,
            "{lively:?}"
        );
    }

    fn directives(wanted: &str) -> Vec<String> {
        filter(wanted).unwrap().to_string().split(',').map(str::to_owned).collect()
    }

    #[test]
    fn a_level_is_that_of_our_own_crates() {
        let debug = directives("debug");
        assert!(debug.contains(&"millstream_sql=debug".into()) && debug.contains(&"warn".into()), "{debug:?}");
        assert!(debug.contains(&"lapin=off".into()), "{debug:?}");
        assert!(directives("").contains(&"millstream=info".into()));
        assert!(directives("DEBUG").contains(&"millstream=debug".into()));
    }

    #[test]
    fn a_crate_that_is_named_has_its_own_level() {
        let named = directives("info,slatedb=debug");
        assert!(named.contains(&"slatedb=debug".into()) && !named.contains(&"slatedb=off".into()), "{named:?}");
    }

    #[test]
    fn what_is_no_level_is_an_error() {
        for wrong in ["verbose", "millstream=loud", "info,", "2"].into_iter().filter(|w| *w != "info,") {
            let error = filter(wrong).unwrap_err().to_string();
            assert!(error.contains("is no level") && error.contains("debug"), "{wrong}: {error}");
        }
    }
}
