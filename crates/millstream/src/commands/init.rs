//! `millstream init`.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use millstream_core::{Error, Result, ResultExt};

use super::shell::{program, quoted};

#[derive(Debug, Args)]
pub struct InitArgs {
    /// Which example to start from.
    #[arg(value_enum)]
    template: Template,
    /// The folder to write it to. Default: one named like the template.
    folder: Option<PathBuf>,
}

/// The examples that the binary carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Template {
    /// Readings by HTTP POST → table → terminal.
    Minimal,
    /// Headlines → sentiment → table → terminal, and RabbitMQ where wanted.
    News,
    /// A folder of XML articles → validated JSON, with the failures kept and run again on demand.
    NewsArchive,
    /// A stream of posts, matched by rules, counted per category.
    CatsVsDogs,
}

macro_rules! files {
    ($example:literal: $($file:literal),+ $(,)?) => {
        &[$(($file, include_bytes!(concat!("../../../../examples/", $example, "/", $file)) as &[u8])),+]
    };
}

impl Template {
    /// Paths and contents of its files.
    pub fn files(self) -> &'static [(&'static str, &'static [u8])] {
        match self {
            Self::Minimal => files!("minimal": "pipeline.yaml"),
            Self::News => files!("news": "pipeline.yaml", "sample/wire.jsonl"),
            Self::NewsArchive => files!(
                "news-archive": "pipeline.yaml", "articles/cut-off.xml", "articles/dairy-merger.xml",
                "articles/ferry-order.xml", "articles/no-headline.xml", "articles/port-strike.xml",
                "articles/rate-decision.xml",
            ),
            Self::CatsVsDogs => files!("cats-vs-dogs": "pipeline.yaml", "posts.jsonl"),
        }
    }

    fn name(self) -> String {
        self.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
    }

    /// What to type next: commands, in their order, that need nothing but this program (and `curl`).
    fn next(self, folder: &Path) -> Vec<String> {
        let millstream = program();
        let file = quoted(&folder.join("pipeline.yaml"));
        let validate = format!("{millstream} validate {file}");
        let read_all = format!("{millstream} run {file} --exit-when-idle");
        let go_on = format!("{millstream} run {file} &");
        let query = |sql: &str| format!("{millstream} query '{sql}' --pipeline {file}");
        match self {
            Self::Minimal => vec![
                validate,
                go_on,
                "curl --retry 9 --retry-connrefused -d '{\"sensor\": \"harbour\", \"celsius\": 11.5}' \
                 http://127.0.0.1:8080/streams/readings/records"
                    .into(),
                query("SELECT * FROM newest"),
            ],
            Self::News => {
                vec![validate, read_all, query("SELECT sentiment.label AS label, count(*) AS n FROM news GROUP BY 1")]
            }
            Self::NewsArchive => vec![validate, read_all, format!("{millstream} dlq list --pipeline {file}")],
            Self::CatsVsDogs => vec![
                validate,
                format!("{millstream} sse {} --hang-up-after 20 &", quoted(&folder.join("posts.jsonl"))),
                go_on,
                "sleep 5".into(),
                query("SELECT category, count(*) AS posts FROM posts_by_category GROUP BY 1"),
            ],
        }
    }

    /// A word on what goes on in the background.
    fn remark(self) -> Option<&'static str> {
        match self {
            Self::Minimal => Some("The pipeline runs in the background: `kill %1` ends it."),
            Self::CatsVsDogs => {
                Some("The feed and the pipeline run in the background (ask again for more): `kill %1 %2` ends them.")
            }
            Self::News | Self::NewsArchive => None,
        }
    }
}

/// `millstream init`.
pub fn run(args: &InitArgs) -> Result<()> {
    let folder = args.folder.clone().unwrap_or_else(|| args.template.name().into());
    write(args.template, &folder)?;
    crate::outln!("wrote {}. Next:\n", folder.display());
    args.template.next(&folder).iter().for_each(|command| crate::outln!("  {command}"));
    args.template.remark().iter().for_each(|remark| crate::outln!("\n{remark}"));
    Ok(())
}

/// Writes the files of a template; none of them may be there already.
pub fn write(template: Template, folder: &Path) -> Result<()> {
    if std::fs::metadata(folder).is_ok_and(|found| !found.is_dir()) {
        return Err(Error::config(format!("{} is a file: name another folder", folder.display())));
    }
    for (name, _) in template.files() {
        let path = folder.join(name);
        // Also a link that leads nowhere is something that somebody put there.
        if path.symlink_metadata().is_ok() {
            return Err(Error::config(format!("{} is there already: name another folder", path.display())));
        }
    }
    for (name, content) in template.files() {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).doing(|| format!("create {}", parent.display()))?;
        }
        let written = File::create_new(&path).and_then(|mut file| file.write_all(content));
        written.doing(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
