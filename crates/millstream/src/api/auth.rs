//! Who asks, and whether they may: tokens, roles ([`super::roles`]), and a line for what administrators do.

use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequest, MatchedPath, Request, State};
use axum::http::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use millstream_core::Result;

use super::audit::{Audit, Line, parameters, shown};
use super::error::ApiError;
use super::roles::{Access, Role, asked};
use super::tokens::{Token, Tokens};

/// Bytes of an answer that an audit line repeats.
const ANSWER_BYTES_MAX: u64 = 16 << 10;

/// Who a request comes from; every request has it as an extension.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The other end of the connection.
    pub address: SocketAddr,
    /// The subject of its certificate, where it had to show one.
    pub certificate: Option<Arc<str>>,
}

/// Who may ask the server for what; cheap to clone.
#[derive(Debug, Clone)]
pub struct Auth {
    tokens: Arc<Tokens>,
    audit: Audit,
}

impl Auth {
    /// `token` may do everything; the tokens of `file` have roles. Lines of administrators go to `audit_log`.
    ///
    /// # Errors
    /// `Config`: a file can't be read or written, or is not as it should be.
    pub fn new(token: Option<&str>, file: Option<&Path>, audit_log: Option<PathBuf>) -> Result<Self> {
        Ok(Self { tokens: Tokens::open(token, file)?, audit: Audit::open(audit_log)? })
    }

    /// Asks nobody for a token.
    ///
    /// # Errors
    /// Never; see [`Auth::new`].
    pub fn open() -> Result<Self> {
        Self::new(None, None, None)
    }

    /// True where no token is asked for, or the headers carry one.
    pub fn knows(&self, headers: &HeaderMap) -> bool {
        self.identify(headers).is_ok()
    }

    /// The routes behind this.
    pub fn over(self, app: Router) -> Router {
        app.layer(axum::middleware::from_fn_with_state(self, check))
    }

    /// The token that was sent; none where nobody is asked for one.
    fn identify(&self, headers: &HeaderMap) -> std::result::Result<Option<Token>, Refused> {
        if self.tokens.are_open() {
            return Ok(None);
        }
        let sent = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(bearer);
        let sent = sent.ok_or(Refused::NoToken)?;
        self.tokens.find(sent).map(Some).ok_or(Refused::UnknownToken)
    }
}

/// The token of `Bearer TOKEN`; the scheme in any case (RFC 9110, 11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Why a request is not answered.
enum Refused {
    NoToken,
    UnknownToken,
    /// The token has no such role.
    Role(Token, Role),
}

impl Refused {
    fn answer(&self, method: &str, path: &str) -> Response {
        let (status, challenge, message) = match self {
            Self::NoToken => {
                let message = "send the server's token as `Authorization: Bearer …`";
                (StatusCode::UNAUTHORIZED, "Bearer", message.to_owned())
            }
            Self::UnknownToken => {
                let message = "this is no token of the server; send one as `Authorization: Bearer …`";
                (StatusCode::UNAUTHORIZED, "Bearer", message.to_owned())
            }
            Self::Role(token, needed) => (
                StatusCode::FORBIDDEN,
                "Bearer error=\"insufficient_scope\"",
                format!(
                    "the token `{}` has the role {}; {method} {path} asks for {}",
                    token.name,
                    token.roles,
                    needed.as_str()
                ),
            ),
        };
        ([(WWW_AUTHENTICATE, HeaderValue::from_static(challenge))], ApiError::new(status, message)).into_response()
    }
}

/// The answer to who has no token, or a wrong one.
pub fn refusal() -> Response {
    Refused::NoToken.answer("GET", "/")
}

async fn check(State(auth): State<Auth>, request: Request, next: Next) -> Response {
    // No route: there is nothing to keep, and the answer says where to look.
    let Some(route) = request.extensions().get::<MatchedPath>().cloned() else { return next.run(request).await };
    let access = asked(request.method(), route.as_str());
    if access == Access::Open {
        return next.run(request).await;
    }
    let who = match auth.identify(request.headers()) {
        Ok(who) => who,
        Err(refused) => return refused.answer(request.method().as_str(), request.uri().path()),
    };
    let refused = match (&who, access) {
        (Some(token), Access::Role(role)) if !token.roles.allow(access) => Some(Refused::Role(token.clone(), role)),
        _ => None,
    };
    if access == Access::Role(Role::Admin) {
        // A task of its own: who goes away does not take the line along.
        let audited = tokio::spawn(audited(auth, who, refused, request, next));
        return audited.await.unwrap_or_else(|e| {
            ApiError::from(millstream_core::Error::bug(format!("the request ended: {e}"))).into_response()
        });
    }
    match refused {
        Some(refused) => refused.answer(request.method().as_str(), request.uri().path()),
        None => next.run(request).await,
    }
}

/// Answers a write of an administrator, and says so.
async fn audited(auth: Auth, who: Option<Token>, refused: Option<Refused>, request: Request, next: Next) -> Response {
    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
    let query = request.uri().query().map(str::to_owned);
    let peer = request.extensions().get::<Peer>().cloned();
    let (parts, body) = request.into_parts();
    let (answer, asked) = match refused {
        // Not worth its body.
        Some(refused) => (refused.answer(&method, &path), Bytes::new()),
        None => match read(parts.clone(), body).await {
            Ok(body) => (next.run(Request::from_parts(parts, Body::from(body.clone()))).await, body),
            Err(broken) => (broken, Bytes::new()),
        },
    };
    let (answer, said) = repeated(answer).await;
    let line = Line {
        at: auth.audit.now(),
        who: who.map(|token| token.name.to_string()),
        certificate: peer.as_ref().and_then(|peer| peer.certificate.as_deref()).map(str::to_owned),
        from: peer.map(|peer| peer.address.to_string()),
        method,
        path,
        parameters: parameters(query.as_deref(), &asked),
        status: answer.status().as_u16(),
        answer: said,
    };
    auth.audit.write(line).await;
    answer
}

/// The body, as a handler of JSON would read it, or its refusal.
async fn read(parts: axum::http::request::Parts, body: Body) -> std::result::Result<Bytes, Response> {
    Bytes::from_request(Request::from_parts(parts, body), &()).await.map_err(IntoResponse::into_response)
}

/// An answer, and what it says where that is short.
async fn repeated(answer: Response) -> (Response, serde_json::Value) {
    let (parts, body) = answer.into_parts();
    let size = HttpBody::size_hint(&body).exact().filter(|size| *size <= ANSWER_BYTES_MAX);
    let Some(size) = size else { return (Response::from_parts(parts, body), serde_json::Value::Null) };
    match axum::body::to_bytes(body, usize::try_from(size).unwrap_or(usize::MAX)).await {
        Ok(bytes) => {
            let said = shown(&bytes);
            (Response::from_parts(parts, Body::from(bytes)), said)
        }
        Err(e) => {
            let e = millstream_core::Error::bug("the answer broke off").caused_by(e);
            (ApiError::from(e).into_response(), serde_json::Value::Null)
        }
    }
}
