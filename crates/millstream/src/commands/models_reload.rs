//! `millstream models reload`.

use clap::Args;
use millstream_core::{Error, Result};
use reqwest::Method;

use super::target::{Target, TargetArgs};

#[derive(Debug, Args)]
pub struct ReloadArgs {
    /// The model, by its name in the pipeline file.
    name: String,
    #[command(flatten)]
    target: TargetArgs,
}

/// Has a running server load the model's files anew, and says what became of it.
pub async fn run(args: ReloadArgs) -> Result<()> {
    let Target::Server(server) = args.target.resolve().await? else {
        return Err(Error::config("only a running server has models to reload: name it with --url"));
    };
    let path = format!("/api/v1/models/{}/reload", args.name);
    let answer = server.json(Method::POST, &path, None).await?;
    let (replaced, digest) = (answer["replaced"].as_str(), answer["digest"].as_str());
    let (Some(replaced), Some(digest)) = (replaced, digest) else {
        return Err(Error::retry("the server's answer is unknown"));
    };
    if replaced == digest {
        crate::outln!("{}: loaded again, unchanged ({digest})", args.name);
    } else {
        crate::outln!("{}: {replaced} replaced by {digest}", args.name);
    }
    Ok(())
}
