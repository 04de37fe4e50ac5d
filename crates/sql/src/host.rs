//! Where queries run: on threads of their own, so many at once, in one memory, so long each.
//!
//! A query is somebody's curiosity; the pipeline and its health are not to wait for it. So planning and running are
//! tasks of another runtime, whose threads give way to all others, and what they find goes back over a channel of a few
//! batches: who does not read holds up his own query, and who goes away ends it. What is to end is told so
//! ([`crate::watched`]), by a thread that does nothing else: all others may be busy.
//!
//! The memory pool counts what operators remember, and functions are bounded where they allocate (`bounded`), but not
//! all of it is counted. So while queries run, the process's memory is looked at: where it has grown by several times
//! the pool, the queries end. An allocator that refuses is no way: Rust ends the process then (ADR 0006).

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use millstream_core::{Error, Result};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::error::SqlError;
use crate::query::{QueryError, QueryResult};
use crate::watched::{Stop, Why};

/// Batches of an answer that wait to be read.
const BATCHES_AHEAD: usize = 2;
/// How often the memory of the process is looked at while queries run.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// How much the process may grow while queries run: so many times the pool, and this much at least.
const GROWTH_MAX: u64 = 4;
const GROWTH_BYTES_MIN: u64 = 512 << 20;
/// How far the threads of queries give way to all others; 19 is as far as it goes.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// What queries may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueryLimits {
    /// What all of them remember together, in bytes.
    pub memory_bytes: usize,
    /// How many run at once.
    pub at_once: usize,
    /// How long one more waits for its turn.
    pub wait: Duration,
    /// How long one may run, unless it says so itself; none is as long as it takes.
    pub deadline: Option<Duration>,
}

impl Default for QueryLimits {
    fn default() -> Self {
        Self {
            memory_bytes: 256 << 20,
            at_once: 4,
            wait: Duration::from_secs(5),
            deadline: Some(Duration::from_secs(60)),
        }
    }
}

/// The threads and the memory of queries; one for a process.
pub struct QueryHost {
    /// There until it is dropped.
    threads: Option<Runtime>,
    memory: Arc<RuntimeEnv>,
    limits: QueryLimits,
    turns: Arc<Semaphore>,
    running: Arc<Mutex<Running>>,
}

/// The queries that run.
#[derive(Default)]
struct Running {
    queries: Vec<Weak<Stop>>,
    is_watched: bool,
}

impl std::fmt::Debug for QueryHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueryHost").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Drop for QueryHost {
    fn drop(&mut self) {
        // Waiting for the threads is not allowed where others run tasks.
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

/// Plans a query and begins it, on a thread of the host.
pub(crate) trait StartQuery:
    FnOnce(&Arc<RuntimeEnv>, &QueryLimits, &Arc<Stop>) -> Result<QueryResult, SqlError> + Send + 'static
{
}

impl<F> StartQuery for F where
    F: FnOnce(&Arc<RuntimeEnv>, &QueryLimits, &Arc<Stop>) -> Result<QueryResult, SqlError> + Send + 'static
{
}

impl QueryHost {
    /// Starts the threads.
    ///
    /// # Errors
    /// `Environment`: the system gives no threads.
    pub fn new(limits: QueryLimits) -> Result<Arc<Self>> {
        let memory = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(GreedyMemoryPool::new(limits.memory_bytes)))
            .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled))
            .build_arc()
            .map_err(|e| Error::bug("no memory pool for queries").caused_by(e))?;
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let threads = Builder::new_multi_thread()
            .worker_threads(cores.clamp(2, 8))
            .max_blocking_threads(64)
            .thread_name("query")
            .on_thread_start(give_way)
            .enable_all()
            .build()
            .map_err(|e| Error::environment("no threads for queries").caused_by(e))?;
        let turns = Arc::new(Semaphore::new(limits.at_once.max(1)));
        Ok(Arc::new(Self { threads: Some(threads), memory, limits, turns, running: Arc::default() }))
    }

    /// What queries may take.
    pub fn limits(&self) -> &QueryLimits {
        &self.limits
    }

    /// Runs what `start` makes, once there is a turn for it. `start` blocks: it plans.
    ///
    /// # Errors
    /// There is no turn, or what `start` says.
    pub(crate) async fn run(
        self: &Arc<Self>,
        deadline: Option<Duration>,
        start: impl StartQuery,
    ) -> Result<QueryResult, QueryError> {
        let threads = self.threads.as_ref().ok_or_else(|| QueryError::Ended("queries have ended".into()))?;
        let stop = Stop::new(deadline.map(|deadline| Instant::now() + deadline));
        let reader = Reader { stop: stop.clone(), host: self.clone() };
        let (to, from) = mpsc::channel(BATCHES_AHEAD);
        let (tell, told) = oneshot::channel();
        let (turns, limits, memory) = (self.turns.clone(), self.limits, self.memory.clone());
        let running = self.running.clone();
        threads.spawn(async move {
            let Ok(Ok(_turn)) = tokio::time::timeout(limits.wait, turns.acquire_owned()).await else {
                let _ = tell.send(Err(QueryError::Busy(limits.at_once)));
                return;
            };
            watch(&running, &stop, limits.memory_bytes);
            let planning = stop.clone();
            let mut plan = tokio::task::spawn_blocking(move || start(&memory, &limits, &planning));
            let started = match stop.until {
                None => plan.await,
                Some(until) => match tokio::time::timeout_at(until.into(), &mut plan).await {
                    Ok(started) => started,
                    Err(_) => {
                        stop.stop(Why::Late);
                        let _ = tell.send(Err(ended(&stop, deadline, limits.memory_bytes)
                            .unwrap_or_else(|| QueryError::Ended("the query took too long".into()))));
                        // It can't be stopped, and keeps its place for as long.
                        drop(plan.await);
                        return;
                    }
                },
            };
            match started {
                Ok(Ok(QueryResult { schema, stream })) => {
                    let _ = tell.send(Ok(schema));
                    hand_on(stream, &to, &stop, deadline, limits.memory_bytes).await;
                }
                Ok(Err(e)) => drop(tell.send(Err(ended(&stop, deadline, limits.memory_bytes).unwrap_or(e.into())))),
                Err(_) => drop(tell.send(Err(QueryError::Ended("the query can't be planned".into())))),
            }
        });
        let schema = told.await.unwrap_or_else(|_| Err(QueryError::Ended("the query was ended".into())))?;
        Ok(QueryResult { schema, stream: answer(from, reader) })
    }
}

/// Whoever reads the answer: when he goes, the query ends. Until then its threads stay.
struct Reader {
    stop: Arc<Stop>,
    host: Arc<QueryHost>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.stop(Why::Gone);
    }
}

/// What comes over the channel, up to its end, which is marked: an answer that breaks off is an error.
fn answer(
    from: mpsc::Receiver<Option<Result<RecordBatch>>>,
    reader: Reader,
) -> BoxStream<'static, Result<RecordBatch>> {
    let next = |state: Option<(mpsc::Receiver<Option<Result<RecordBatch>>>, Reader)>| async move {
        let (mut from, reader) = state?;
        match from.recv().await {
            Some(None) => None,
            Some(Some(Ok(batch))) => Some((Ok(batch), Some((from, reader)))),
            Some(Some(Err(e))) => Some((Err(e), None)),
            None => {
                let (limits, until) = (reader.host.limits, reader.stop.until);
                let why = ended(&reader.stop, until.and(limits.deadline), limits.memory_bytes);
                Some((Err(Error::input(why.map_or("the query was ended".into(), |why| why.to_string()))), None))
            }
        }
    };
    stream::unfold(Some((from, reader)), next).boxed()
}

/// Sends what is computed until it ends, fails, or is stopped.
async fn hand_on(
    mut batches: BoxStream<'static, Result<RecordBatch>>,
    to: &mpsc::Sender<Option<Result<RecordBatch>>>,
    stop: &Stop,
    deadline: Option<Duration>,
    memory_bytes: usize,
) {
    loop {
        let next = AssertUnwindSafe(batches.next()).catch_unwind().await;
        let ended = ended(stop, deadline, memory_bytes).map(|why| Error::input(why.to_string()));
        let next = match (ended, next) {
            (Some(why), _) => Some(Err(why)),
            (None, Ok(next)) => next,
            (None, Err(_)) => Some(Err(Error::input("the query can't be computed for these values"))),
        };
        let is_last = !matches!(next, Some(Ok(_)));
        let sent = to.send(next);
        // One who has stopped reading has until the deadline, too.
        let sent = match stop.until {
            Some(until) => tokio::time::timeout_at(until.into(), sent).await.is_ok_and(|sent| sent.is_ok()),
            None => sent.await.is_ok(),
        };
        if !sent || is_last {
            if !sent && stop.until.is_some_and(|until| until <= Instant::now()) {
                stop.stop(Why::Late);
            }
            return;
        }
    }
}

/// Why a query was stopped, in a sentence.
fn ended(stop: &Stop, deadline: Option<Duration>, memory_bytes: usize) -> Option<QueryError> {
    Some(QueryError::Ended(match stop.why()? {
        Why::Late => {
            let seconds = deadline.unwrap_or_default().as_secs_f64();
            format!("the query took longer than {seconds} s: filter earlier, add a LIMIT, or give it more time")
        }
        Why::Memory => format!(
            "the queries that were running took more than {} MiB together, and were ended: select fewer columns, filter \
             earlier, or add a LIMIT",
            growth_max(memory_bytes) >> 20
        ),
        Why::Gone => "nobody reads the answer".to_owned(),
    }))
}

fn growth_max(memory_bytes: usize) -> u64 {
    (memory_bytes as u64 * GROWTH_MAX).max(GROWTH_BYTES_MIN)
}

/// Adds a query to those that are watched: for their time, and for the memory of the process.
fn watch(running: &Arc<Mutex<Running>>, stop: &Arc<Stop>, memory_bytes: usize) {
    let mut now = running.lock().unwrap_or_else(PoisonError::into_inner);
    now.queries.push(Arc::downgrade(stop));
    if now.is_watched {
        return;
    }
    let all = running.clone();
    let watching = std::thread::Builder::new().name("query-watch".into()).spawn(move || {
        let before = resident_bytes();
        loop {
            std::thread::sleep(LOOK_EVERY);
            let grown = before
                .zip(resident_bytes())
                .is_some_and(|(before, now)| now.saturating_sub(before) > growth_max(memory_bytes));
            let mut now = all.lock().unwrap_or_else(PoisonError::into_inner);
            now.queries.retain(|query| query.strong_count() > 0);
            if now.queries.is_empty() {
                now.is_watched = false;
                return;
            }
            for query in now.queries.iter().filter_map(Weak::upgrade) {
                if grown {
                    query.stop(Why::Memory);
                } else if query.until.is_some_and(|until| until <= Instant::now()) {
                    query.stop(Why::Late);
                }
            }
        }
    });
    now.is_watched = watching.is_ok();
}

/// The memory that the process holds now.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib << 10)
}

/// This thread gives way to others.
fn give_way() {
    #[cfg(target_os = "linux")]
    {
        // On Linux a thread has a priority of its own. Where it can't be set, it is as it was.
        let _ = rustix::process::setpriority_process(None, NICENESS);
    }
}
