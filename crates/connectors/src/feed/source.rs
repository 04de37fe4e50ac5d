//! The feed source: which feed to poll when, and what to hand out of the answers.
//!
//! A few feeds are polled at the same time, so that a slow one does not keep the others waiting; no feed is polled
//! before the entries of the last answers have been handed out, which bounds what is held.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use millstream_core::{CursorDelta, Failure, HumanDuration, RawBatch, Result, Source, SourceBatch, SourceRead};
use reqwest::Url;
use tokio::time::{Instant, sleep_until};

use super::config::{FeedSourceConfig, FeedSpec};
use super::fetch::{Polled, Validators, poll};
use super::seen::{NewEntry, Seen};
use crate::backoff::{Backoff, BackoffConfig};
use crate::context::{SourceContext, SourceStatus};
use crate::http_client::HttpClient;
use crate::record_buffer::RecordBuffer;

/// How many feeds are polled at the same time.
const POLLS_MAX: usize = 8;

/// The longest that a feed which fails is left alone, unless its `interval` is longer.
const FAILED_WAIT_MAX: Duration = Duration::from_secs(3600);

/// The longest that a server may ask to be left alone.
const SERVER_WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

/// Polls feeds; see [`FeedSourceConfig`]. Each record is one entry as a JSON object.
pub struct FeedSource {
    config: FeedSourceConfig,
    context: SourceContext,
    client: HttpClient,
    feeds: Vec<Feed>,
    /// Kept here, and not in the future of `next`, so that a dropped call does not start them over.
    polls: FuturesUnordered<BoxFuture<'static, (usize, Polled)>>,
    /// Answers that are still to be handed out.
    answers: VecDeque<Answer>,
    idle_told: bool,
}

struct Feed {
    url: Url,
    /// What messages call it.
    origin: Arc<str>,
    seen: Seen,
    backoff: Backoff,
    next_poll: Instant,
    polling: bool,
}

/// What is left of one document.
struct Answer {
    feed: usize,
    entries: VecDeque<NewEntry>,
    /// A document that is no feed.
    refused: Option<(NewEntry, Bytes, Failure)>,
    /// Every entry that the document holds, and the validators to remember when all have been handed out.
    held: HashSet<u128>,
    validators: Validators,
}

impl FeedSource {
    /// A source that polls at the first `next`.
    ///
    /// # Errors
    /// `Corruption`: the cursor can't be read. `Environment`: TLS can't be set up.
    pub fn new(spec: &FeedSpec, context: SourceContext) -> Result<Self> {
        let config = spec.config.clone();
        let client = HttpClient::new(spec.headers.clone(), Some(config.timeout.0), spec.access())?;
        let waits =
            BackoffConfig { initial: config.interval, max: HumanDuration(FAILED_WAIT_MAX.max(config.interval.0)) };
        let now = Instant::now();
        let feeds = spec
            .feeds
            .iter()
            .enumerate()
            .map(|(i, feed)| {
                Ok(Feed {
                    url: feed.url.clone(),
                    origin: feed.shown.as_str().into(),
                    seen: Seen::new(&feed.typed, config.remember, &context.cursor)?,
                    backoff: Backoff::new(&waits, context.seed().wrapping_add(i as u64)),
                    next_poll: now,
                    polling: false,
                })
            })
            .collect::<Result<_>>()
            .map_err(|e: millstream_core::Error| e.context(format!("source {}", context.name)))?;
        let (polls, answers) = (FuturesUnordered::new(), VecDeque::new());
        Ok(Self { config, context, client, feeds, polls, answers, idle_told: false })
    }

    /// Begins the polls whose time has come. Returns when the next one's time comes.
    fn start_polls(&mut self) -> Option<Instant> {
        let now = Instant::now();
        for (i, feed) in self.feeds.iter_mut().enumerate() {
            if self.polls.len() == POLLS_MAX {
                return None;
            }
            if feed.polling || feed.next_poll > now {
                continue;
            }
            feed.polling = true;
            let (client, url, validators) = (self.client.clone(), feed.url.clone(), feed.seen.validators.clone());
            let max_body = usize::try_from(self.config.max_body.0).unwrap_or(usize::MAX);
            let clock = self.context.clock.clone();
            self.polls.push(async move { (i, poll(client, url, validators, max_body, &*clock).await) }.boxed());
        }
        self.feeds.iter().filter(|feed| !feed.polling).map(|feed| feed.next_poll).min()
    }

    /// Takes the outcome of a poll, and sets the time of the next.
    fn take_polled(&mut self, index: usize, polled: Polled) {
        let interval = self.config.interval.0;
        let feed = &mut self.feeds[index];
        feed.polling = false;
        feed.next_poll = Instant::now() + interval;
        match polled {
            Polled::Failed { why, retry_after } => {
                let wait = interval + feed.backoff.next_wait();
                let wait = wait.max(retry_after.unwrap_or_default().min(SERVER_WAIT_MAX));
                tracing::debug!(source = %self.context.name, feed = %feed.origin, ?wait, "the feed can't be read: {why}");
                let why = format!("{}: {why}", feed.origin);
                (self.context.status)(SourceStatus::Waiting { part: &feed.origin, why: &why });
                feed.next_poll = Instant::now() + wait;
                return;
            }
            Polled::NotModified => {}
            Polled::Entries { entries, validators } => {
                let (entries, held) = feed.seen.news(entries);
                self.answers.push_back(Answer {
                    feed: index,
                    entries: entries.into(),
                    refused: None,
                    held,
                    validators,
                });
            }
            Polled::Refused { kept, failure, validators } => {
                let why = format!("{}: {}", feed.origin, failure.message);
                (self.context.status)(SourceStatus::Trouble { why: &why });
                let refused = feed.seen.bad_document(&kept).map(|entry| (entry, kept, failure));
                let (entries, held) = (VecDeque::new(), HashSet::new());
                self.answers.push_back(Answer { feed: index, entries, refused, held, validators });
            }
        }
        let feed = &mut self.feeds[index];
        (self.context.status)(SourceStatus::Works { part: &feed.origin });
        feed.backoff.reset();
    }

    /// The next batch out of the answers. A batch is of one feed.
    fn take_batch(&mut self) -> Option<SourceBatch> {
        while let Some(answer) = self.answers.front_mut() {
            let feed = &mut self.feeds[answer.feed];
            let mut records = RecordBuffer::new(feed.origin.clone());
            let mut changes = CursorDelta::new();
            while !records.is_full()
                && let Some(entry) = answer.entries.pop_front()
            {
                feed.seen.note(&entry, &mut changes);
                records.push(&entry.json);
            }
            if let Some((entry, kept, failure)) = answer.refused.take() {
                feed.seen.note(&entry, &mut changes);
                records.push_refused(&kept, failure);
            }
            if answer.entries.is_empty() {
                feed.seen.note_end(std::mem::take(&mut answer.validators), &answer.held, &mut changes);
                self.answers.pop_front();
            }
            if !records.is_empty() || !changes.is_empty() {
                let raw = if records.is_empty() { RawBatch::default() } else { records.take() };
                return Some(SourceBatch { raw, cursor: changes, ack: None });
            }
        }
        None
    }
}

#[async_trait]
impl Source for FeedSource {
    async fn next(&mut self) -> Result<SourceRead> {
        loop {
            if let Some(batch) = self.take_batch() {
                self.idle_told = false;
                return Ok(SourceRead::Batch(batch));
            }
            let next_poll = self.start_polls();
            if self.polls.is_empty() && !std::mem::replace(&mut self.idle_told, true) {
                return Ok(SourceRead::Idle);
            }
            tokio::select! {
                Some((index, polled)) = self.polls.next(), if !self.polls.is_empty() => self.take_polled(index, polled),
                () = wait_until(next_poll) => {}
            }
        }
    }
}

/// Waits for ever where no time is set: a poll under way comes first.
async fn wait_until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
