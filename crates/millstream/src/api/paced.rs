//! The body of a request, which must keep arriving: a peer that announces one and sends nothing, or a byte now and
//! then, is told so (408) and hung up on.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::HttpBody;
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

use super::connections::Connection;

/// How fast a body must arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// In each span of this length ...
    pub span: Duration,
    /// ... so many bytes, or the end.
    pub bytes: usize,
    /// All of it.
    pub whole: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { span: Duration::from_secs(10), bytes: 64 << 10, whole: Duration::from_secs(120) }
    }
}

/// Why a body was given up.
#[derive(Debug, thiserror::Error)]
#[error("the body did not arrive in time: {0}")]
pub struct TooSlow(String);

impl TooSlow {
    /// True where this is what lies at the bottom of an error.
    pub fn is_cause_of(e: &(dyn std::error::Error + 'static)) -> bool {
        let mut at = Some(e);
        while let Some(e) = at {
            if e.is::<Self>() {
                return true;
            }
            at = e.source();
        }
        false
    }
}

/// A body with a pace. Time counts while its reader waits for bytes, and only then.
pub struct Paced<B = Incoming> {
    body: B,
    pace: Pace,
    arrived: usize,
    /// Time that its reader has waited: in this span, and in all.
    waited: (Duration, Duration),
    waiting_since: Option<Instant>,
    /// Is told that this body does not come on as it should.
    connection: Arc<Connection>,
    is_slow: bool,
    give_up: Pin<Box<Sleep>>,
}

impl<B> Paced<B> {
    /// `body` at that pace.
    pub fn new(body: B, pace: Pace, connection: Arc<Connection>) -> Self {
        let give_up = Box::pin(tokio::time::sleep(Duration::ZERO));
        let waited = (Duration::ZERO, Duration::ZERO);
        Self { body, pace, arrived: 0, waited, waiting_since: None, connection, is_slow: false, give_up }
    }

    fn set_slow(&mut self, is_slow: bool) {
        if self.is_slow != is_slow {
            self.is_slow = is_slow;
            self.connection.waits_for_body(is_slow);
        }
    }

    fn wait(&mut self) {
        if self.waiting_since.is_none() {
            let left =
                (self.pace.span.saturating_sub(self.waited.0)).min(self.pace.whole.saturating_sub(self.waited.1));
            let now = Instant::now();
            self.waiting_since = Some(now);
            self.set_slow(true);
            self.give_up.as_mut().reset(now + left);
        }
    }

    fn came(&mut self, bytes: usize) {
        let waited = self.waiting_since.take().map_or(Duration::ZERO, |since| since.elapsed());
        self.waited = (self.waited.0 + waited, self.waited.1 + waited);
        self.arrived += bytes;
        if self.arrived >= self.pace.bytes {
            (self.arrived, self.waited.0) = (0, Duration::ZERO);
            self.set_slow(false);
        }
    }
}

impl<B> Drop for Paced<B> {
    fn drop(&mut self) {
        self.set_slow(false);
    }
}

impl<B> HttpBody for Paced<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.came(frame.data_ref().map_or(0, Bytes::len));
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(e))) => Poll::Ready(Some(Err(e.into()))),
            Poll::Ready(None) => {
                self.set_slow(false);
                Poll::Ready(None)
            }
            Poll::Pending => {
                self.wait();
                std::task::ready!(self.give_up.as_mut().poll(cx));
                let Pace { span, bytes, whole } = self.pace;
                let why =
                    format!("{bytes} bytes in each {span:?}, and all of it within {whole:?}; send it again faster");
                Poll::Ready(Some(Err(TooSlow(why).into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
