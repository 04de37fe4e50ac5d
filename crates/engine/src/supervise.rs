//! Watching everything that was spawned, until it fails, ends or is stopped; and stopping it in the order of the flow.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use millstream_core::blocking::apart;
use millstream_core::{Error, ErrorKind, Result};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::deliver::{Deliver, Wish};
use crate::open::open_source;
use crate::task::{Hurry, Task, TaskContext};
use crate::worker::{RunOptions, Running};
use crate::{preflight, retention};

/// How often old segments are looked for, and figures taken.
const RETAIN_EVERY: Duration = Duration::from_secs(30);
const FIGURES_EVERY: Duration = Duration::from_secs(1);
/// Everything that was spawned, and the handles to stop it.
#[derive(Debug)]
pub struct Supervisor {
    running: Arc<Running>,
    sources: JoinSet<Result<()>>,
    tasks: JoinSet<Result<()>>,
    sinks: JoinSet<Result<()>>,
    retention: JoinSet<Result<()>>,
    stop_sources: CancellationToken,
    stop_tasks: CancellationToken,
    hurry: Hurry,
    wish: watch::Sender<Wish>,
    options: RunOptions,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything was read, delivered and committed.
    Idle,
    /// It was asked to stop.
    Stopped,
}

impl Supervisor {
    pub(crate) fn spawn(
        running: Arc<Running>,
        context: TaskContext,
        tasks: Vec<Task>,
        sinks: Vec<Deliver>,
        wish: watch::Sender<Wish>,
        options: RunOptions,
    ) -> Result<Self> {
        let mut supervisor = Self {
            running,
            sources: JoinSet::new(),
            tasks: JoinSet::new(),
            sinks: JoinSet::new(),
            retention: JoinSet::new(),
            stop_sources: CancellationToken::new(),
            stop_tasks: context.stop.clone(),
            hurry: context.hurry.clone(),
            wish,
            options,
        };
        for task in tasks {
            supervisor.tasks.spawn(task.run());
        }
        for sink in sinks {
            supervisor.sinks.spawn(sink.run());
        }
        if supervisor.options.replay.is_none() {
            for ingest in supervisor.running.ingests.values() {
                ingest.runs();
                let Some(source) = open_source(ingest, &supervisor.running.health)? else {
                    supervisor.sources.spawn(ingest.clone().keep_time(supervisor.stop_sources.clone()));
                    continue;
                };
                supervisor.sources.spawn(ingest.clone().pull(source, supervisor.stop_sources.clone()));
            }
        }
        let (pipeline, health) = (supervisor.running.pipeline.clone(), supervisor.running.health.clone());
        let (clock, stop) = (supervisor.running.clock.clone(), supervisor.stop_tasks.clone());
        tokio::spawn(preflight::look_again(pipeline, health.clone(), clock, stop));
        health.started();
        supervisor.running.ready.store(true, Ordering::Release);
        Ok(supervisor)
    }

    /// The pipeline.
    pub fn running(&self) -> &Arc<Running> {
        &self.running
    }

    /// Watches until something fails, `shutdown` resolves, or all is done; then stops everything in the order of the
    /// flow.
    ///
    /// # Errors
    /// The first error of any part.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<Outcome> {
        let mut figures = tokio::time::interval(FIGURES_EVERY);
        let mut retain = tokio::time::interval(RETAIN_EVERY);
        let running = self.running.clone();
        let mut missing = None;
        tokio::pin!(shutdown);
        let ended = loop {
            tokio::select! {
                () = &mut shutdown => break Ok(Outcome::Stopped),
                Some(ended) = self.sources.join_next() => {
                    if let Err(e) = flatten(ended) { break Err(e); }
                }
                Some(ended) = self.tasks.join_next() => break Err(unexpected(flatten(ended), "a task")),
                Some(ended) = self.sinks.join_next() => break Err(unexpected(flatten(ended), "a sink")),
                _ = figures.tick() => {
                    running.take_figures();
                    running.metrics.tally().say_more();
                    let trouble = running.whereabouts.trouble();
                    if let Some(trouble) = trouble.as_ref().filter(|_| missing.is_none()) {
                        tracing::error!("{trouble}");
                    }
                    missing = trouble;
                }
                _ = retain.tick(), if self.retention.is_empty() => self.retain(),
                Some(ended) = self.retention.join_next() => {
                    if let Err(e) = flatten(ended) { break Err(e.context("remove old records")); }
                }
                () = running.progress.moved(), if self.options.exit_when_idle => {
                    if running.stages_are_idle() {
                        self.wish.send_if_modified(|w| std::mem::replace(w, Wish::Drain) != Wish::Drain);
                        if running.is_idle() { break Ok(Outcome::Idle); }
                    } else {
                        self.wish.send_if_modified(|w| std::mem::replace(w, Wish::Run) != Wish::Run);
                    }
                }
            }
        };
        running.ready.store(false, Ordering::Release);
        running.take_figures();
        let deadline = self.options.stop_deadline;
        match tokio::time::timeout(deadline, self.stop(deadline)).await {
            Ok(stopped) => ended.and_then(|outcome| stopped.map(|()| outcome)),
            Err(_) => {
                tracing::warn!(
                    ?deadline,
                    "not everything stopped in time; what was under way is done again at the next start"
                );
                ended
            }
        }
    }

    /// Removes what is old, beside everything else.
    fn retain(&mut self) {
        let (running, stop) = (self.running.clone(), self.stop_tasks.clone());
        self.retention.spawn(apart(move || {
            retention::retain(&running.streams, &running.progress, running.clock.as_ref(), &stop)
        }));
    }

    /// Sources first, then tasks, then sinks, then logs. Whoever takes more than a share of the deadline drops what is
    /// under way, so that all get their turn.
    async fn stop(mut self, deadline: Duration) -> Result<()> {
        self.stop_sources.cancel();
        let mut first = join_all(&mut self.sources).await;
        self.stop_tasks.cancel();
        first = first.and(hurried(join_all(&mut self.tasks), &self.hurry.tasks, deadline * 2 / 5).await);
        // Predictions are kept when they are made: closing only tidies up.
        if let Ok(closed) = tokio::time::timeout(deadline / 10, self.running.models.close()).await {
            first = first.and(closed);
        }
        self.wish.send_replace(Wish::Stop);
        first = first.and(hurried(join_all(&mut self.sinks), &self.hurry.sinks, deadline / 5).await);
        first = first.and(join_all(&mut self.retention).await);
        for stream in self.running.streams.values() {
            first = first.and(stream.log.close().await);
        }
        first
    }
}

/// Waits for `work`, and tells it to hurry after a while.
async fn hurried(work: impl Future<Output = Result<()>>, hurry: &CancellationToken, after: Duration) -> Result<()> {
    tokio::pin!(work);
    tokio::select! {
        done = &mut work => return done,
        () = tokio::time::sleep(after) => hurry.cancel(),
    }
    work.await
}

async fn join_all(set: &mut JoinSet<Result<()>>) -> Result<()> {
    let mut first = Ok(());
    while let Some(ended) = set.join_next().await {
        first = first.and(flatten(ended));
    }
    first
}

fn flatten(ended: std::result::Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    match ended {
        Ok(Err(e)) if e.kind() == ErrorKind::Stopped => Ok(()),
        Ok(result) => result,
        Err(e) => Err(Error::bug(format!("a part of the pipeline panicked: {e}"))),
    }
}

fn unexpected(ended: Result<()>, what: &str) -> Error {
    ended.err().unwrap_or_else(|| Error::bug(format!("{what} ended by itself")))
}
