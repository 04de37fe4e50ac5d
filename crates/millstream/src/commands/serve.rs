//! `millstream serve`: a model for other systems, without a pipeline.

use std::collections::BTreeMap;

use clap::Args;
use millstream_core::{ByteSize, Error, HumanDuration, Result};
use millstream_models::source::Source;
use millstream_models::{ModelHandle, Reads};
use tokio_util::sync::CancellationToken;

use super::models::{Chosen, ModelArgs};
use super::server_args::ServerArgs;
use super::{Failed, asked_to_stop};
use crate::api;
use crate::api::inference::{Inference, Limits};
use millstream_engine::scorer::Scorer;

#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The name under which clients ask for it. Default: the one in the pipeline file, else the source's own.
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
    /// The largest body of a request.
    #[arg(long, default_value = "8MiB", value_parser = ByteSize::parse)]
    max_body: ByteSize,
    /// How long a request waits for its turn before it is answered with 429.
    #[arg(long, default_value = "2s", value_parser = HumanDuration::parse)]
    max_wait: HumanDuration,
    /// How long the model may take for a request.
    #[arg(long, default_value = "60s", value_parser = HumanDuration::parse)]
    timeout: HumanDuration,
    /// How long a stop may take: what is under way is answered until then.
    #[arg(long, default_value = "10s", value_parser = HumanDuration::parse)]
    stop_deadline: HumanDuration,
}

pub async fn run(args: ServeArgs) -> std::result::Result<(), Failed> {
    let mut chosen = args.model.resolve()?;
    chosen.name = checked_name(args.name.unwrap_or(chosen.name))?;
    let limits = Limits {
        body_bytes_max: usize::try_from(args.max_body.0).unwrap_or(usize::MAX),
        wait_max: args.max_wait.0,
        answer_max: args.timeout.0,
    };
    let listener = api::bind(&args.server.listen).await?;
    let address = listener.local_addr()?;
    let (auth, guard, entrance) = (args.server.auth(address)?, args.server.guard(address)?, args.server.entrance()?);
    let scheme = entrance.scheme();
    let inference = Inference::loading(limits);
    let stop = CancellationToken::new();
    // Before the model is loaded: whoever watches sees that it is on its way.
    let mut server =
        tokio::spawn(api::model_server::serve(listener, entrance, inference.clone(), auth, guard, stop.clone()));
    // One for all that follows: a signal between two of them would go unheard.
    let asked_to_stop = asked_to_stop();
    tokio::pin!(asked_to_stop);
    let loaded = tokio::select! {
        loaded = load(&chosen) => Some(loaded?),
        () = &mut asked_to_stop => None,
    };
    if let Some(model) = loaded {
        let (name, digest) = (model.info().name.clone(), model.info().digest.clone());
        inference.loaded(BTreeMap::from([(name.clone(), Scorer::alone(model))]));
        tracing::info!(model = %name, %digest, "running; {scheme}://{address}");
        tokio::select! {
            () = asked_to_stop => {}
            ended = &mut server => return Err(ended_by_itself(ended).into()),
        }
    }
    stop.cancel();
    match tokio::time::timeout(args.stop_deadline.0, server).await {
        Ok(_) => tracing::info!("stopped"),
        Err(_) => tracing::warn!(deadline = ?args.stop_deadline.0, "not every request was answered in time"),
    }
    Ok(())
}

/// The model, after its first prediction: buffers are there, pages are read. An endpoint is not called.
async fn load(chosen: &Chosen) -> Result<ModelHandle> {
    let (config, name) = (chosen.config.clone(), chosen.name.clone());
    let is_remote = matches!(Source::parse(&config.source)?, Source::Endpoint(_));
    let runtime = tokio::runtime::Handle::current();
    // On a thread of its own, so that the server answers meanwhile, and a stop does not wait.
    let loaded = tokio::task::spawn_blocking(move || {
        let _inside = runtime.enter();
        config.load(&name)
    });
    let model = loaded.await.map_err(|e| Error::bug(format!("loading the model panicked: {e}")))??;
    // One that reads columns has tried itself on some when it was loaded.
    if !is_remote && model.info().reads == Reads::Text {
        model.predict(vec!["warm up"]).await?;
    }
    Ok(model)
}

/// A name that fits into a path and a header.
fn checked_name(name: String) -> Result<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
        let message = format!(
            "`{name}` is no name for clients: write --name with letters, digits, `_`, `-` and `.` (64 at most)"
        );
        return Err(Error::config(message));
    }
    Ok(name)
}

fn ended_by_itself(ended: std::result::Result<Result<()>, tokio::task::JoinError>) -> Error {
    match ended {
        Ok(Err(e)) => e.context("serve"),
        _ => Error::bug("the server ended by itself"),
    }
}
