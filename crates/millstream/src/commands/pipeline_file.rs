//! What every command that reads a pipeline file takes beside it: values and variables.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use millstream_core::{Error, Result};

use crate::config::{Setting, env_file, is_stdin};

/// Values and variables for a pipeline file.
#[derive(Debug, Clone, Default, Args)]
pub struct Given {
    /// Put a value into the pipeline file: `--set sinks.queue.url=amqp://broker`, `--set sources.wire.partitions=2`. A
    /// value that begins with a bracket, a brace or a quote is read as YAML. May be given several times.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    settings: Vec<Setting>,
    /// Take variables from a file of lines `NAME=value`; those of the process win. May be given several times: the last
    /// file that has a variable counts.
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
}

/// The variables that `${NAME}` stands for.
#[derive(Debug, Default)]
pub struct Variables(BTreeMap<String, String>);

impl Given {
    /// The values.
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// Reads the files of variables.
    ///
    /// # Errors
    /// `Config`: a file can't be read, or a line of it.
    pub fn variables(&self) -> Result<Variables> {
        let mut all = BTreeMap::new();
        for file in &self.env_file {
            if is_stdin(file) {
                return Err(Error::config("--env-file -: variables are read from a file only"));
            }
            let wrong = |e: std::io::Error| Error::config(format!("{} can't be read: {e}", file.display()));
            let bytes = std::fs::read(file).map_err(wrong)?;
            let text = String::from_utf8(bytes)
                .map_err(|_| Error::config(format!("{}: the file is not UTF-8", file.display())))?;
            all.extend(env_file::parse(&file.display().to_string(), &text)?);
        }
        Ok(Variables(all))
    }
}

impl Variables {
    /// The value of a variable: that of the process, else that of the last file.
    pub fn get(&self, name: &str) -> Option<String> {
        std::env::var(name).ok().or_else(|| self.0.get(name).cloned())
    }
}
