//! `millstream run`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use millstream_core::{HumanDuration, Secret, SystemClock};
use tokio_util::sync::CancellationToken;

use super::progress::shown_after_a_while;
use super::{Failed, asked_to_stop, data_folder, load};
use crate::api::{self, ApiState};
use crate::pipeline::run::{Opening, Outcome};
use crate::pipeline::{RunOptions, Running};

#[derive(Debug, Args)]
pub struct RunArgs {
    /// The pipeline file.
    file: PathBuf,
    /// Where logs, tables and offsets are kept. Default: millstream-data/NAME, with the pipeline's name.
    #[arg(long, env = "MILLSTREAM_DATA_DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArgs,
    /// End once every source is read and everything is delivered and committed.
    #[arg(long)]
    exit_when_idle: bool,
    /// How long a stop may take.
    #[arg(long, default_value = "10s", value_parser = HumanDuration::parse)]
    stop_deadline: HumanDuration,
}

/// The server's options.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// Address of the server; port 0 takes a free one.
    #[arg(long, env = "MILLSTREAM_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Ask clients for this bearer token (everything but health). Better set by environment than on the command line.
    #[arg(long, env = "MILLSTREAM_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

impl ServerArgs {
    /// The token; says where the server is open to the network without one.
    pub fn checked_token(&self, address: SocketAddr) -> Option<Arc<Secret>> {
        if self.token.is_none() && !address.ip().is_loopback() {
            tracing::warn!(%address, "the server is open to the network without a token: set MILLSTREAM_TOKEN");
        }
        self.token.clone().map(|token| Arc::new(Secret::new(token)))
    }
}

pub async fn run(args: RunArgs) -> Result<(), Failed> {
    let pipeline = load(&args.file)?;
    let data_dir = data_folder(args.data_dir, &pipeline)?;
    let options = RunOptions {
        data_dir: data_dir.clone(),
        exit_when_idle: args.exit_when_idle,
        stop_deadline: args.stop_deadline.0,
        replay: None,
        opening: Opening::watched(shown_after_a_while("opening the data folder", "logs and states")),
    };
    // Before anything is opened: a taken port is the commonest mistake.
    let listener = api::bind(args.server.listen).await?;
    let address = listener.local_addr()?;
    let supervisor = Running::start(pipeline.clone(), options, Arc::new(SystemClock)).await?;
    let stop_server = CancellationToken::new();
    let token = args.server.checked_token(address);
    let state = ApiState { running: supervisor.running().clone(), token, stop: stop_server.clone() };
    let server = tokio::spawn(api::serve(listener, state));
    tracing::info!(pipeline = %pipeline.name, data_dir = %data_dir.display(), "running; http://{address}");
    let ended = supervisor.run(asked_to_stop()).await;
    stop_server.cancel();
    let _ = tokio::time::timeout(Duration::from_secs(2), server).await;
    match ended? {
        Outcome::Idle => tracing::info!("done: everything is read, delivered and committed"),
        Outcome::Stopped => tracing::info!("stopped; the next start goes on from here"),
    }
    Ok(())
}
