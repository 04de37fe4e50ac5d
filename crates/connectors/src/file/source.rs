//! The file source: reads on threads that may block, one batch ahead of whoever asks.

use std::sync::Arc;

use async_trait::async_trait;
use millstream_core::{Error, ErrorKind, Result, Source, SourceBatch, SourceRead};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::config::{FileSourceConfig, FileSourceSpec};
use super::reader::ReadOptions;
use super::tracker::{Round, Tracker};
use crate::context::{SourceContext, SourceStatus, Status};

/// Reads files; see [`FileSourceConfig`]. Restarted with its cursor it goes on exactly behind the last stored batch.
pub struct FileSource {
    name: Arc<str>,
    config: FileSourceConfig,
    status: Status,
    /// What it reads was not there when it looked last.
    missing: bool,
    state: State,
    /// The tracker, while nobody works with it.
    tracker: Option<Box<Tracker>>,
    /// The work under way. It is kept here, and not in the future of `next`, so that a dropped call loses nothing.
    work: Option<JoinHandle<(Box<Tracker>, Result<Outcome>)>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A round is under way, or may begin at once.
    Reading,
    /// The last round found nothing; to be told to the caller before the wait.
    Idle(Instant),
    /// The next round begins then.
    Waiting(Instant),
    /// Everything has been read, for good.
    Finished,
}

/// What one piece of work gave.
enum Outcome {
    Batch(Box<SourceBatch>),
    /// The round's files have been read; how many there were. None where the round had begun earlier.
    RoundOver(Option<Round>),
}

impl FileSource {
    /// A source that goes on behind `context.cursor`. Looks at nothing on the disk before the first `next`.
    ///
    /// # Errors
    /// `Corruption`: the cursor can't be read.
    pub fn new(spec: &FileSourceSpec, context: SourceContext) -> Result<Self> {
        let config = &spec.config;
        let options = ReadOptions {
            framing: context.framing,
            encoding: context.encoding,
            compression: config.compression,
            max_record: usize::try_from(config.max_record.0).unwrap_or(usize::MAX - 2).min(usize::MAX - 2),
        };
        let tracker =
            Tracker::new(spec, options, &context).map_err(|e| e.context(format!("source {}", context.name)))?;
        Ok(Self {
            name: context.name,
            status: context.status,
            missing: false,
            config: config.clone(),
            state: State::Reading,
            tracker: Some(Box::new(tracker)),
            work: None,
        })
    }

    /// Starts the next piece of work, where none is under way.
    fn start_work(&mut self, begin_round: bool) {
        if let Some(mut tracker) = self.tracker.take() {
            self.work = Some(tokio::task::spawn_blocking(move || {
                let outcome = work(&mut tracker, begin_round);
                (tracker, outcome)
            }));
        }
    }

    /// Waits for the work under way. Cancel-safe: the handle stays where it is until it has answered.
    async fn finish_work(&mut self) -> Result<Outcome> {
        let Some(handle) = &mut self.work else {
            return Err(Error::bug("a file source was read again after it broke"));
        };
        let joined = handle.await;
        self.work = None;
        let (tracker, outcome) = joined.map_err(|e| {
            let kind = if e.is_cancelled() { ErrorKind::Retry } else { ErrorKind::Bug };
            Error::new(kind, "reading files broke off").caused_by(e)
        })?;
        self.tracker = Some(tracker);
        outcome
    }

    /// Decides what comes after a round.
    fn round_over(&mut self, round: Option<Round>) {
        let next = Instant::now() + self.config.poll_interval.0;
        self.state = match round {
            _ if !self.config.follow => State::Finished,
            Some(Round { queued: 0, unsettled: false, missing }) => {
                if missing {
                    let why = format!("{} is not there yet", self.config.path);
                    (self.status)(SourceStatus::Waiting { part: "", why: &why });
                } else if self.missing {
                    (self.status)(SourceStatus::Works { part: "" });
                }
                self.missing = missing;
                State::Idle(next)
            }
            _ => State::Waiting(next),
        };
    }
}

/// Reads the next batch, beginning a round first where asked to.
fn work(tracker: &mut Tracker, begin_round: bool) -> Result<Outcome> {
    let round = if begin_round { Some(tracker.scan()?) } else { None };
    Ok(match tracker.next_batch()? {
        Some(batch) => Outcome::Batch(Box::new(batch)),
        None => Outcome::RoundOver(round),
    })
}

#[async_trait]
impl Source for FileSource {
    async fn next(&mut self) -> Result<SourceRead> {
        loop {
            match self.state {
                State::Finished => return Ok(SourceRead::Finished),
                State::Idle(next) => {
                    self.state = State::Waiting(next);
                    return Ok(SourceRead::Idle);
                }
                State::Waiting(next) if self.work.is_none() => {
                    tokio::time::sleep_until(next).await;
                    self.start_work(true);
                }
                State::Reading if self.work.is_none() => self.start_work(true),
                State::Reading | State::Waiting(_) => {}
            }
            let outcome = self.finish_work().await.map_err(|e| e.context(format!("source {}", self.name)))?;
            match outcome {
                Outcome::Batch(batch) => {
                    self.state = State::Reading;
                    // The next block is read while this one is worked on.
                    self.start_work(false);
                    return Ok(SourceRead::Batch(*batch));
                }
                Outcome::RoundOver(round) => self.round_over(round),
            }
        }
    }
}
