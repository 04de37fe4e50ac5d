//! The connections of a server, and what a peer may hold open with one.
//!
//! Every connection costs a file descriptor and some memory, so there is a limit to them. Nobody holds one for nothing:
//! a request's head must arrive in time, a quiet connection is closed after a while (at once where a new one needs its
//! place), and an answer that its client does not read is broken off. How fast bodies must arrive is
//! [`super::paced`]'s.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody};
use axum::http::{Request, Response, Version};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// How long a peer may keep a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// From the connection (or the first byte of a later request) to the end of a request's head; a handshake is in it.
    pub head: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// For a piece of an answer to be taken: [`PIECE_BYTES`] at most.
    pub piece: Duration,
    /// For all of an answer, from its first piece on; not of one that is read by hand.
    pub answer: Duration,
    /// For a piece of answers that a person may be reading ([`ReadByHand`]).
    pub piece_by_hand: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            head: seconds(20),
            idle: seconds(90),
            piece: seconds(30),
            answer: seconds(300),
            piece_by_hand: seconds(15 * 60),
        }
    }
}

/// Put on an answer (as an extension) that may be read slowly: a person pages through it.
#[derive(Debug, Clone, Copy)]
pub struct ReadByHand;

/// Bytes of an answer that go to the connection at once.
pub const PIECE_BYTES: usize = 64 << 10;
/// A body that has come on within this time is not slow.
const SLOW_AFTER: Duration = Duration::from_secs(1);
/// How often connections are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// All open connections of a server.
#[derive(Debug)]
pub struct Connections {
    places: Arc<Semaphore>,
    patience: Patience,
    open: Mutex<HashMap<u64, Arc<Connection>>>,
    next: AtomicU64,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    /// Cancelled where it is to be closed, whatever is under way.
    pub end: CancellationToken,
    /// The address of ours that it came to.
    pub local: SocketAddr,
    times: Mutex<Times>,
}

#[derive(Debug)]
struct Times {
    /// Requests whose answers have not been sent.
    requests: u32,
    /// Since when a request's head is on its way.
    head_since: Option<Instant>,
    /// Since when a request's body has not come on as it should.
    body_since: Option<Instant>,
    /// When it was opened, or had its last request answered.
    quiet_since: Instant,
    /// Heads come in frames: a byte says nothing about one.
    is_http2: bool,
    answers: BTreeMap<u64, Handed>,
    next_answer: u64,
}

/// An answer, as far as its connection has asked for it.
#[derive(Debug, Clone, Copy)]
struct Handed {
    /// When the last piece was handed over; none while the next one is being made.
    at: Option<Instant>,
    /// When the first one was.
    began: Option<Instant>,
    by_hand: bool,
}

impl Connections {
    /// At most `max` connections at once.
    pub fn new(max: usize, patience: Patience) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(max.clamp(1, Semaphore::MAX_PERMITS)));
        Arc::new(Self { places, patience, open: Mutex::default(), next: AtomicU64::new(0) })
    }

    /// Looks after the connections for as long as there are any, or somebody who opens some.
    pub async fn look_after(connections: Weak<Self>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let Some(connections) = connections.upgrade() else { return };
            let now = Instant::now();
            for connection in connections.open.lock().values() {
                if connection.is_over(now, &connections.patience) {
                    connection.end.cancel();
                }
            }
        }
    }

    /// A place for one more connection. Where there is none, one of the others makes room; none where all are busy.
    pub async fn place(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            return Some(place);
        }
        if !self.close_one() {
            return None;
        }
        let place = self.places.clone().acquire_owned();
        tokio::time::timeout(Duration::from_secs(1), place).await.ok()?.ok()
    }

    /// Closes the connection on which nothing has been under way for longest, else the one whose request's body has
    /// been waited for longest; false where there is neither.
    pub fn close_one(&self) -> bool {
        let open = self.open.lock();
        let first = |since: fn(&Connection) -> Option<Instant>| {
            let since = open.values().filter_map(|connection| Some((since(connection)?, connection)));
            since.min_by_key(|(since, _)| *since).map(|(_, connection)| connection)
        };
        let closed = first(Connection::quiet_since).or_else(|| first(Connection::slow_since));
        if let Some(connection) = closed {
            connection.end.cancel();
        }
        closed.is_some()
    }

    /// Counts a connection until what this returns is dropped.
    pub fn opened(self: &Arc<Self>, local: SocketAddr, place: OwnedSemaphorePermit) -> Open {
        let now = Instant::now();
        let times = Times {
            requests: 0,
            head_since: Some(now),
            body_since: None,
            quiet_since: now,
            is_http2: false,
            answers: BTreeMap::new(),
            next_answer: 0,
        };
        let connection = Arc::new(Connection { end: CancellationToken::new(), local, times: Mutex::new(times) });
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.lock().insert(id, connection.clone());
        Open { connections: self.clone(), connection, id, _place: place }
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.open.lock().len()
    }
}

/// A connection that counts as open.
#[derive(Debug)]
pub struct Open {
    connections: Arc<Connections>,
    /// What is known of it.
    pub connection: Arc<Connection>,
    id: u64,
    _place: OwnedSemaphorePermit,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connections.open.lock().remove(&self.id);
    }
}

impl Connection {
    /// Bytes have arrived.
    pub fn heard(&self) {
        let mut times = self.times.lock();
        if times.requests == 0 && !times.is_http2 && times.head_since.is_none() {
            times.head_since = Some(Instant::now());
        }
    }

    /// A request's head is here.
    pub fn request<B>(self: &Arc<Self>, request: &Request<B>) -> UnderWay {
        let mut times = self.times.lock();
        times.requests += 1;
        times.head_since = None;
        times.is_http2 = request.version() == Version::HTTP_2;
        UnderWay(self.clone())
    }

    /// A request's body is waited for; or it has come on, or is there.
    pub fn waits_for_body(&self, waits: bool) {
        self.times.lock().body_since = waits.then(Instant::now);
    }

    fn slow_since(&self) -> Option<Instant> {
        let since = self.times.lock().body_since.filter(|_| !self.end.is_cancelled());
        since.filter(|since| since.elapsed() > SLOW_AFTER)
    }

    fn quiet_since(&self) -> Option<Instant> {
        let times = self.times.lock();
        (times.requests == 0 && !self.end.is_cancelled()).then_some(times.quiet_since)
    }

    fn is_over(&self, now: Instant, patience: &Patience) -> bool {
        let times = self.times.lock();
        let longer = |since: Instant, than: Duration| now.saturating_duration_since(since) > than;
        let waits_for_head = times.requests == 0 && times.head_since.is_some_and(|since| longer(since, patience.head));
        let is_idle = times.requests == 0 && longer(times.quiet_since, patience.idle);
        let is_stuck = |answer: &Handed| {
            let piece = if answer.by_hand { patience.piece_by_hand } else { patience.piece };
            let is_late = !answer.by_hand && answer.began.is_some_and(|began| longer(began, patience.answer));
            is_late || answer.at.is_some_and(|at| longer(at, piece))
        };
        waits_for_head || is_idle || times.answers.values().any(is_stuck)
    }
}

/// A request until its answer is sent, or nobody wants it any more.
#[derive(Debug)]
pub struct UnderWay(Arc<Connection>);

impl UnderWay {
    /// The answer, watched while it is read.
    pub fn answer(self, answer: Response<Body>) -> Response<Body> {
        let by_hand = answer.extensions().get::<ReadByHand>().is_some();
        let id = {
            let mut times = self.0.times.lock();
            times.next_answer += 1;
            let id = times.next_answer;
            times.answers.insert(id, Handed { at: None, began: None, by_hand });
            id
        };
        answer.map(|body| Body::new(Answer { body, rest: Bytes::new(), id, under_way: self }))
    }

    fn hand_over(&self, id: u64, at: Option<Instant>) {
        if let Some(answer) = self.0.times.lock().answers.get_mut(&id) {
            answer.at = at;
            answer.began = answer.began.or(at);
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut times = self.0.times.lock();
        times.requests -= 1;
        times.quiet_since = Instant::now();
    }
}

/// The body of an answer. Its connection asks for a piece when it has room for one.
struct Answer {
    body: Body,
    /// Of the last piece of the body: what has not been handed over.
    rest: Bytes,
    id: u64,
    under_way: UnderWay,
}

impl Answer {
    fn piece(&mut self) -> Frame<Bytes> {
        let at = self.rest.len().min(PIECE_BYTES);
        self.under_way.hand_over(self.id, Some(Instant::now()));
        Frame::data(self.rest.split_to(at))
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(self.piece())));
        }
        self.under_way.hand_over(self.id, None);
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match polled {
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    self.rest = data;
                    Poll::Ready(Some(Ok(self.piece())))
                }
                Err(other) => Poll::Ready(Some(Ok(other))),
            },
            other => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (of_body, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(of_body.lower() + rest);
        if let Some(upper) = of_body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.under_way.0.times.lock().answers.remove(&self.id);
    }
}
