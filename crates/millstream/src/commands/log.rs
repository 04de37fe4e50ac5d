//! The log of the process: lines on standard error, filtered by `MILLSTREAM_LOG`.

use millstream_core::{Error, Result};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Directive;

use super::LogFormat;

/// The variable that says what is logged.
const VARIABLE: &str = "MILLSTREAM_LOG";
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// Our own crates.
const OURS: [&str; 6] = [
    "millstream",
    "millstream_core",
    "millstream_storage",
    "millstream_sql",
    "millstream_models",
    "millstream_connectors",
];
/// Libraries whose own words say nothing to a user: what they warn of comes back to us as an error, and is said then.
const QUIET: [&str; 5] = ["slatedb=off", "lapin=off", "object_store=off", "tract_core=error", "ort=error"];

/// Starts the log.
///
/// # Errors
/// `Config`: the variable does not say what it should.
pub fn start(format: LogFormat) -> Result<()> {
    let wanted = std::env::var(VARIABLE).unwrap_or_default();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(&wanted)?)
        .with_ansi(crate::output::is_lively())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_target(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
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
    use super::*;

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
