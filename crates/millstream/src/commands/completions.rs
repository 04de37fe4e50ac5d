//! `millstream completions` and `millstream man`: what shells and `man` want to know of the command line, made from it.

use std::io::Write as _;

use clap::{Args, CommandFactory as _};
use clap_complete::{Shell, generate};
use millstream_core::{Error, Result};

use super::Cli;
use crate::config::diagnostics::suggestion;
use crate::render::unless_closed;

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell. For bash: millstream completions bash > ~/.local/share/bash-completion/completions/millstream
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Args)]
pub struct ManArgs {
    /// The command, such as `run` or `dlq list`. Default: the program.
    command: Vec<String>,
}

/// `millstream completions`.
pub fn run(args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    generate(args.shell, &mut Cli::command(), "millstream", &mut script);
    print(&script)
}

/// `millstream man`: a page in roff, for `man -l -`.
pub fn man(args: &ManArgs) -> Result<()> {
    let mut program = Cli::command();
    program.build();
    let mut command = &program;
    for (depth, name) in args.command.iter().enumerate() {
        command = command.find_subcommand(name).ok_or_else(|| {
            let known: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
            let help = suggestion(name, "there is", &known).unwrap_or_default();
            Error::config(format!("there is no command `{}`: {help}", args.command[..=depth].join(" ")))
        })?;
    }
    let words = std::iter::once("millstream").chain(args.command.iter().map(String::as_str));
    let name = words.collect::<Vec<_>>().join("-");
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).title(name).render(&mut page)?;
    print(&page)
}

fn print(bytes: &[u8]) -> Result<()> {
    unless_closed(std::io::stdout().write_all(bytes).map_err(Error::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
