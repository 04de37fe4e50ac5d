//! `millstream demo`: the news example on sample headlines that arrive one after the other.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use millstream_core::disk::create_fresh;
use millstream_core::{Error, Result, ResultExt, SystemClock};
use tokio_util::sync::CancellationToken;

use super::init::Template;
use super::shell::{program, quoted};
use super::{Failed, asked_to_stop, load};
use crate::api::{self, ApiState, Auth, Guard};
use crate::render::{self, Format};
use millstream_engine::Outcome;
use millstream_engine::opening::Opening;
use millstream_engine::{RunOptions, Running, relations};

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Where pipeline file, sample and data go. Started again, the demo goes on from there.
    #[arg(long, default_value = "millstream-demo")]
    folder: PathBuf,
    /// Also publish every change to the RabbitMQ at AMQP_URL (default: this machine's).
    #[arg(long)]
    amqp: bool,
    /// Pause between headlines, in milliseconds.
    #[arg(long, default_value_t = 120)]
    pause_ms: u64,
    /// Keep the server running at the end.
    #[arg(long)]
    stay: bool,
    /// Address of the server; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: String,
}

pub async fn run(args: DemoArgs) -> std::result::Result<(), Failed> {
    let file = write_demo(&args)?;
    let pipeline = load(&file)?;
    let data_dir = args.folder.join("data");
    let options = RunOptions {
        data_dir: data_dir.clone(),
        exit_when_idle: false,
        stop_deadline: Duration::from_secs(10),
        replay: None,
        opening: Opening::default(),
    };
    let listener = match api::bind(&args.listen).await {
        Ok(listener) => listener,
        // The demo must run beside whatever has the port.
        Err(_) => api::bind("127.0.0.1:0").await?,
    };
    let address = listener.local_addr()?;
    let guard = Guard::new(&args.listen, address, &[], &[])?;
    if !address.ip().is_loopback() {
        let message =
            format!("--listen {address}: the demo has no token, so it listens on loopback only (127.0.0.1:8080)");
        return Err(Error::config(message).into());
    }
    crate::outln!("pipeline   {}", file.display());
    crate::outln!("data       {}  (log, table, offsets; delete it to start over)", data_dir.display());
    crate::outln!("dashboard  http://{address}\n");
    let supervisor = Running::start(pipeline, options, Arc::new(SystemClock)).await?;
    let running = supervisor.running().clone();
    let stop_server = CancellationToken::new();
    let server = tokio::spawn(api::serve(
        listener,
        api::tls::Entrance::Plain,
        ApiState { running: running.clone(), auth: Auth::open()?, stop: stop_server.clone() },
        guard,
    ));
    let folder = args.folder.clone();
    let (pause, stay) = (Duration::from_millis(args.pause_ms), args.stay);
    let feed = async {
        feed(&folder, pause).await?;
        while !running.is_idle() {
            running.progress.moved().await;
        }
        summary(&running).await?;
        if stay {
            crate::outln!("\nthe server stays up; Ctrl-C ends it");
            asked_to_stop().await;
        }
        Ok::<(), millstream_core::Error>(())
    };
    let mut fed = Ok(());
    let ended = supervisor
        .run(async {
            tokio::select! {
                result = feed => fed = result,
                () = asked_to_stop() => {}
            }
        })
        .await;
    stop_server.cancel();
    let _ = tokio::time::timeout(Duration::from_secs(2), server).await;
    fed?;
    if ended? == Outcome::Stopped && !stay {
        let (program, data) = (program(), quoted(&data_dir));
        crate::outln!("\nall of it is still there. Try:");
        crate::outln!(
            "  {program} query \"SELECT sentiment.label AS label, count(*) AS n FROM news GROUP BY 1\" --data-dir {data}"
        );
        crate::outln!("  {program} tap news.changes --limit 2 --data-dir {data}");
        crate::outln!("  {program} dlq list --data-dir {data}");
    }
    Ok(())
}

/// The news example, with a followed file as its source.
fn write_demo(args: &DemoArgs) -> Result<PathBuf> {
    std::fs::create_dir_all(&args.folder).doing(|| format!("create {}", args.folder.display()))?;
    let news = Template::News.files();
    let text = |name: &str| news.iter().find(|(n, _)| *n == name).map(|(_, c)| String::from_utf8_lossy(c).into_owned());
    let yaml = text("pipeline.yaml").unwrap_or_default();
    let mut yaml =
        yaml.replace("path: ./sample/wire.jsonl", "path: ./wire.jsonl\n    follow: true\n    poll_interval: 50ms");
    if args.amqp {
        yaml = with_rabbitmq(&yaml);
    }
    let file = args.folder.join("pipeline.yaml");
    let written = create_fresh(&file).and_then(|mut file| file.write_all(yaml.as_bytes()));
    written.doing(|| format!("write {}", file.display()))?;
    Ok(file)
}

/// The news example with the sink that is only a comment in it.
fn with_rabbitmq(yaml: &str) -> String {
    let (before, sink) = yaml.split_once("  # queue:\n").unwrap_or((yaml, ""));
    let lines = sink.lines().map(|line| line.strip_prefix("  # ").map_or(line.to_owned(), |line| format!("  {line}")));
    format!("{before}  queue:\n{}\n", lines.collect::<Vec<_>>().join("\n"))
}

/// Appends the sample's headlines to the followed file, one after the other, from where the last run ended; then one
/// record that is not right.
async fn feed(folder: &Path, pause: Duration) -> Result<()> {
    let sample =
        Template::News.files().iter().find(|(name, _)| name.ends_with("wire.jsonl")).map_or(&[][..], |(_, c)| c);
    let path = folder.join("wire.jsonl");
    let written = std::fs::read_to_string(&path).map_or(0, |text| text.lines().count());
    let mut file =
        std::fs::File::options().create(true).append(true).open(&path).doing(|| format!("write {}", path.display()))?;
    let lines = String::from_utf8_lossy(sample).into_owned() + "{\"id\": \"n-broken\", \"headline\": 17 crates}\n";
    for line in lines.lines().skip(written) {
        writeln!(file, "{line}").doing(|| format!("write {}", path.display()))?;
        tokio::time::sleep(pause).await;
    }
    // The source looks every 50 ms.
    tokio::time::sleep(Duration::from_millis(500)).await;
    Ok(())
}

async fn summary(running: &Running) -> Result<()> {
    let engine = relations::engine_of_running(running)?;
    let sql = "SELECT sentiment.label AS sentiment, count(*) AS headlines, round(avg(sentiment.score), 2) AS mean_score \
               FROM news GROUP BY 1 ORDER BY 2 DESC";
    crate::outln!("\n$ millstream query \"{sql}\"");
    let result = engine.run(sql).await.map_err(|e| millstream_core::Error::bug(e.to_string()))?;
    render::print(&result.schema, result.stream, Format::Table, &mut std::io::stdout()).await
}
