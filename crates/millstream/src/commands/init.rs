//! `millstream init`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use millstream_core::{Error, Result, ResultExt};

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
    /// Headlines → sentiment → table → RabbitMQ.
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
            Self::News => files!("news": "pipeline.yaml", "sample/wire.jsonl"),
            Self::NewsArchive => files!("news-archive": "pipeline.yaml"),
            Self::CatsVsDogs => files!("cats-vs-dogs": "pipeline.yaml"),
        }
    }

    fn name(self) -> String {
        self.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
    }
}

pub fn run(args: &InitArgs) -> Result<()> {
    let folder = args.folder.clone().unwrap_or_else(|| args.template.name().into());
    write(args.template, &folder)?;
    crate::outln!("wrote {}. Next:", folder.display());
    crate::outln!("  millstream validate {}", folder.join("pipeline.yaml").display());
    crate::outln!("  millstream run {}", folder.join("pipeline.yaml").display());
    Ok(())
}

/// Writes the files of a template; none of them may be there already.
pub fn write(template: Template, folder: &Path) -> Result<()> {
    for (name, _) in template.files() {
        let path = folder.join(name);
        if path.exists() {
            return Err(Error::config(format!("{} is there already: name another folder", path.display())));
        }
    }
    for (name, content) in template.files() {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).doing(|| format!("create {}", parent.display()))?;
        }
        std::fs::write(&path, content).doing(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
