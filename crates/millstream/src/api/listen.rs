//! The listener: takes connections, keeps to its limits, and hands requests to the routes.
//!
//! What stands between the socket and HTTP is a [`Transport`]: [`Plain`] is nothing. A connection is taken, counted
//! ([`super::connections`]), shaken hands with and served on a task of its own, so that nobody waits for a slow peer.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, StatusCode};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use millstream_core::{Result, descriptors};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::auth::Peer;
use super::connections::{Connection, Connections, Open, Patience};
use super::paced::{Pace, Paced};

/// Pause after the system gave no descriptor for a connection; one may be closed meanwhile.
const NO_DESCRIPTOR_PAUSE: Duration = Duration::from_millis(100);
/// Bytes of a request's head at most, and of an answer that wait for their connection.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Requests that an HTTP/2 connection has under way at most.
const STREAMS_MAX: u32 = 64;

/// Bytes of a body that an HTTP/2 connection holds while nobody reads them.
const WINDOW_BYTES: u32 = 64 << 10;

/// What peers may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// How long a peer may keep one.
    pub patience: Patience,
    /// How fast bodies must arrive.
    pub pace: Pace,
}

impl Default for Limits {
    fn default() -> Self {
        let connections = descriptors::shares().connections;
        Self { connections, patience: Patience::default(), pace: Pace::default() }
    }
}

/// What a connection goes through before HTTP is spoken on it.
pub trait Transport: Send + Sync + 'static {
    /// What HTTP is spoken on.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Shakes hands. It may take its time: the deadline of a request's head is over it.
    fn accept(&self, socket: TcpStream) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// The subject of the certificate that the peer had to show.
    fn certificate(_stream: &Self::Stream) -> Option<Arc<str>> {
        None
    }
}

/// HTTP on the socket itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plain;

impl Transport for Plain {
    type Stream = TcpStream;

    async fn accept(&self, socket: TcpStream) -> io::Result<TcpStream> {
        Ok(socket)
    }
}

/// The address of ours that a request came to; every request has it as an extension.
#[derive(Debug, Clone, Copy)]
pub struct LocalAddress(pub SocketAddr);

/// Serves until `stop` is cancelled, and then until what is under way is answered.
pub async fn serve<T: Transport>(
    listener: TcpListener,
    transport: T,
    app: Router,
    limits: Limits,
    stop: CancellationToken,
) -> Result<()> {
    let connections = Connections::new(limits.connections, limits.patience);
    let watch = tokio::spawn(Connections::look_after(Arc::downgrade(&connections)));
    let (transport, app) = (Arc::new(transport), TowerToHyperService::new(app));
    let tasks = TaskTracker::new();
    let mut said = Said::default();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(e) if descriptors::are_used_up(&e) => {
                said.once("the server can't take connections for now: the process has no file descriptor left", &e);
                connections.close_one();
                tokio::time::sleep(NO_DESCRIPTOR_PAUSE).await;
                continue;
            }
            // The peer is gone already, or the network is.
            Err(e) => {
                tracing::debug!("a connection broke off before it was taken: {e}");
                tokio::task::yield_now().await;
                continue;
            }
        };
        let Some(place) = connections.place().await else {
            said.once("connections are refused: all that there may be are busy", &limits.connections);
            refuse(&socket);
            continue;
        };
        let Ok(local) = socket.local_addr() else { continue };
        let _ = socket.set_nodelay(true);
        keep_alive(&socket);
        let open = connections.opened(local, place);
        let (transport, app, stop) = (transport.clone(), app.clone(), stop.clone());
        tasks.spawn(async move {
            let ended = open.connection.end.clone();
            tokio::select! {
                () = ended.cancelled() => {}
                () = connection(socket, &*transport, app, limits.pace, &open, stop) => {}
            }
        });
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
    watch.abort();
    Ok(())
}

async fn connection<T: Transport>(
    socket: TcpStream,
    transport: &T,
    app: TowerToHyperService<Router>,
    pace: Pace,
    open: &Open,
    stop: CancellationToken,
) {
    let Ok(address) = socket.peer_addr() else { return };
    let shaken = tokio::select! {
        // Nothing was asked yet.
        () = stop.cancelled() => return,
        shaken = transport.accept(socket) => shaken,
    };
    let stream = match shaken {
        Ok(stream) => stream,
        Err(e) => return tracing::debug!("a connection broke off: {e}"),
    };
    let peer = Peer { address, certificate: T::certificate(&stream) };
    let stream = TokioIo::new(Heard { stream, connection: open.connection.clone() });
    let about = open.connection.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let under_way = about.request(&request);
        let mut request = request.map(|body| Body::new(Paced::new(body, pace, about.clone())));
        request.extensions_mut().insert(LocalAddress(about.local));
        request.extensions_mut().insert(peer.clone());
        let answer = app.call(request);
        async move {
            let mut answer = answer.await?;
            if answer.status() == StatusCode::REQUEST_TIMEOUT {
                // What is left of the body would be taken for the next request.
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, std::convert::Infallible>(under_way.answer(answer))
        }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    // The deadline of a head is kept by `Connections`: it can tell a slow head from a quiet connection.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(2 * WINDOW_BYTES)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .max_send_buf_size(super::connections::PIECE_BYTES)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    let served = builder.serve_connection(stream, service);
    tokio::pin!(served);
    let ended = tokio::select! {
        ended = &mut served => ended,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(e) = ended {
        tracing::debug!("a connection broke off: {e}");
    }
}

/// Has the system find out where a peer is gone without a word: an answer that waits for more to say would not.
fn keep_alive(socket: &TcpStream) {
    use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl};
    let set = set_socket_keepalive(socket, true)
        .and_then(|()| set_tcp_keepidle(socket, Duration::from_secs(60)))
        .and_then(|()| set_tcp_keepintvl(socket, Duration::from_secs(15)))
        .and_then(|()| set_tcp_keepcnt(socket, 4));
    if let Err(e) = set {
        tracing::debug!("a connection goes without keep-alive: {e}");
    }
}

/// Says why, as far as the socket takes it at once.
fn refuse(socket: &TcpStream) {
    let answer = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let _ = socket.try_write(answer.as_bytes());
}

/// Warnings that are said once a minute at most.
#[derive(Default)]
struct Said(Option<std::time::Instant>);

impl Said {
    fn once(&mut self, what: &str, detail: &dyn std::fmt::Display) {
        if self.0.is_none_or(|at| at.elapsed() > Duration::from_secs(60)) {
            self.0 = Some(std::time::Instant::now());
            tracing::warn!("{what} ({detail})");
        }
    }
}

/// A stream whose connection knows when bytes arrive.
struct Heard<S> {
    stream: S,
    connection: Arc<Connection>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.connection.heard();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
