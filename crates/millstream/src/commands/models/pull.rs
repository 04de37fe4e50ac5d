//! `millstream models pull`.

use clap::Args;
use millstream_core::Result;
use millstream_models::huggingface::hub::{self, Hub, Repository, pull};

use crate::commands::progress::Progress;

#[derive(Debug, Args)]
pub struct PullArgs {
    /// A model of the hub: `hf://org/name`, or `hf://org/name@revision` for a branch, a tag or a commit.
    #[arg(value_name = "SOURCE")]
    source: String,
}

pub async fn run(args: PullArgs) -> Result<()> {
    let (hub, repository) = (Hub::from_env()?, Repository::parse(&args.source)?);
    let mut current: Option<(String, Progress)> = None;
    let mut show = |at: hub::Progress<'_>| {
        if current.as_ref().is_none_or(|(file, _)| file != at.file) {
            // The bar of the last file goes away before the next one is drawn.
            current = None;
            let progress = Progress::new(at.file, at.bytes_total.unwrap_or(0), "bytes");
            current = Some((at.file.to_owned(), progress));
        }
        if let Some((_, progress)) = &mut current {
            progress.set(at.bytes);
        }
    };
    let folder = pull(&hub, &repository, &mut show).await;
    drop(current);
    // For people and scripts: what `source: FOLDER` would say.
    crate::outln!("{}", folder?.display());
    Ok(())
}
