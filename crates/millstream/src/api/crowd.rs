//! How many answers of a kind may be read at once: each of them holds memory until its client has taken it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::connections::ReadByHand;
use super::error::ApiError;

/// Limits of a route.
pub trait Crowd {
    /// At most `max` requests at once, until their answers are read; one more is told to come back.
    fn at_most(self, max: usize) -> Self;

    /// The same for answers that a person may be paging through.
    fn read_by_hand(self, max: usize) -> Self;
}

impl<S: Clone + Send + Sync + 'static> Crowd for MethodRouter<S> {
    fn at_most(self, max: usize) -> Self {
        self.layer(axum::middleware::from_fn_with_state(Arc::new(Semaphore::new(max)), one_of))
    }

    fn read_by_hand(self, max: usize) -> Self {
        self.at_most(max).layer(axum::middleware::map_response(|mut answer: Response| async move {
            answer.extensions_mut().insert(ReadByHand);
            answer
        }))
    }
}

async fn one_of(State(places): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    let Ok(place) = places.try_acquire_owned() else {
        let why = "as many requests of this kind as there may be are under way; send this again later";
        let refused = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, why);
        return ([(RETRY_AFTER, "1")], refused).into_response();
    };
    next.run(request).await.map(|body| Body::new(Held { body, _place: place }))
}

/// A body that keeps a place for as long as it is read.
struct Held {
    body: Body,
    _place: OwnedSemaphorePermit,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;

    use super::*;

    #[tokio::test]
    async fn an_answer_keeps_its_place_until_it_is_read() {
        let app: Router = Router::new().route("/", get(|| async { "answer" }).at_most(1));
        let ask = || TowerToHyperService::new(app.clone()).call(Request::new(Body::empty()));
        let first = ask().await.unwrap();
        assert_eq!(first.status(), StatusCode::OK);
        assert_eq!(ask().await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
        axum::body::to_bytes(first.into_body(), 100).await.unwrap();
        assert_eq!(ask().await.unwrap().status(), StatusCode::OK);
    }
}
