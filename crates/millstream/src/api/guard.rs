//! Who may speak with the server from a browser: nobody but its own page, unless configured.
//!
//! A browser takes any web page's requests to any address, loopback too, and a page can have its own name lead there
//! (DNS rebinding). So a request must name this server (`Host`): by `localhost`, by an address, or by a name of
//! `--allowed-hosts`. And where a browser says for whom it asks (`Origin`, `Sec-Fetch-Site`, `Referer`), that must be
//! this server's own page or an origin of `--allowed-origins`. Other clients send none of these headers and are not
//! touched.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, HOST, HeaderName, ORIGIN, REFERER, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use millstream_core::{Error, Result};

use super::error::ApiError;
use super::listen::LocalAddress;

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
const ALLOW_PRIVATE: HeaderName = HeaderName::from_static("access-control-allow-private-network");
/// What pages of configured origins may send.
const CORS_METHODS: &str = "GET, POST";
const CORS_HEADERS: &str =
    "authorization, content-type, content-encoding, accept, idempotency-key, x-amzn-sagemaker-custom-attributes";
/// Where a link of another page may lead.
const LINKED: [&str; 5] = ["/", "/healthz", "/readyz", "/metrics", "/api/v1/openapi.json"];
/// Characters of a wrong name that an error repeats.
const QUOTED_MAX: usize = 100;

/// What the server is called, and whose pages may ask it.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    /// True where only this machine can reach it.
    is_local: bool,
    /// Names, in lower case.
    hosts: Vec<String>,
    any_host: bool,
    /// Origins as browsers write them.
    origins: Vec<String>,
}

impl Guard {
    /// For a server that was told to listen at `named` and got `bound`.
    ///
    /// # Errors
    /// `Config`: a host or an origin is none.
    pub fn new(named: &str, bound: SocketAddr, hosts: &[String], origins: &[String]) -> Result<Self> {
        let mut guard = Self { is_local: bound.ip().is_loopback(), ..Self::default() };
        if let Some((host, _)) = named.rsplit_once(':') {
            guard.hosts.push(bare(host));
        }
        for host in hosts.iter().map(|host| host.trim()).filter(|host| !host.is_empty()) {
            if host == "*" {
                guard.any_host = true;
            } else if host.parse::<Authority>().is_ok_and(|a| a.port().is_none() && !host.contains('@')) {
                guard.hosts.push(bare(host));
            } else {
                return Err(Error::config(format!(
                    "--allowed-hosts {host}: write names or addresses without a port, such as news.example.com, with a \
                     comma between them"
                )));
            }
        }
        for origin in origins.iter().map(|origin| origin.trim()).filter(|origin| !origin.is_empty()) {
            let Some(parsed) = Origin::parse(origin) else {
                return Err(Error::config(format!(
                    "--allowed-origins {origin}: write scheme and host (and port) as a browser's address has them, such \
                     as https://news.example.com, with a comma between several"
                )));
            };
            guard.origins.push(parsed.text());
        }
        Ok(guard)
    }

    /// The routes behind this guard.
    pub fn over(self, app: Router) -> Router {
        app.layer(axum::middleware::from_fn_with_state(Arc::new(self), check))
    }

    /// Whether `host` is a name of this server, of which the request came to `local`.
    fn knows(&self, host: &str, local: Option<IpAddr>) -> bool {
        let host = bare(host);
        if self.any_host || host == "localhost" || self.hosts.contains(&host) {
            return true;
        }
        // A name can be made to lead here; an address says itself where it leads.
        let Ok(address) = host.parse::<IpAddr>() else { return false };
        let address = address.to_canonical();
        !self.is_local || address.is_loopback() || local.is_some_and(|local| local.to_canonical() == address)
    }

    /// The names under which a request asks for this server.
    fn check_host<'a>(
        &self,
        (uri, headers, version): (&'a Uri, &'a HeaderMap, Version),
        local: Option<IpAddr>,
    ) -> std::result::Result<Option<Authority>, ApiError> {
        let mut asked = None;
        let in_headers = headers.get_all(HOST).iter().map(|host| host.to_str().unwrap_or_default());
        for host in in_headers.chain(uri.authority().map(Authority::as_str)) {
            let authority = host.parse::<Authority>().ok().filter(|_| !host.contains('@'));
            let Some(authority) = authority else {
                return Err(ApiError::bad_request("Host: this is no name of a host"));
            };
            if !self.knows(authority.host(), local) {
                let name = quoted(authority.host());
                return Err(ApiError::new(
                    StatusCode::FORBIDDEN,
                    format!(
                        "this server is not called `{name}`; if it is, start it with --allowed-hosts {name} (or \
                         MILLSTREAM_ALLOWED_HOSTS); else ask it by the address that it listens on"
                    ),
                ));
            }
            asked = Some(authority);
        }
        if headers.get_all(HOST).iter().count() > 1 {
            return Err(ApiError::bad_request("Host: send one"));
        }
        // Programs older than names of hosts may go without; browsers do not.
        if asked.is_none() && version > Version::HTTP_10 {
            return Err(ApiError::bad_request("Host: send the address that you ask"));
        }
        Ok(asked)
    }

    /// Whether the page that asks may; with an origin where that must be allowed to read the answer.
    fn check_page(
        &self,
        (method, uri, headers): (&Method, &Uri, &HeaderMap),
        asked: Option<&Authority>,
    ) -> std::result::Result<Option<HeaderValue>, ApiError> {
        let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        if let Some(origin) = text(&ORIGIN) {
            let parsed = Origin::parse(origin);
            if parsed.as_ref().is_some_and(|origin| self.origins.contains(&origin.text())) {
                return Ok(headers.get(ORIGIN).cloned());
            }
            return match parsed.zip(asked).is_some_and(|(origin, asked)| origin.is_of(asked)) {
                true => Ok(None),
                false => Err(foreign(origin)),
            };
        }
        let site = text(&FETCH_SITE);
        let is_foreign = site.is_some_and(|site| !["same-origin", "none"].contains(&site));
        // A link in another page may lead to this one: its reader comes along, the other page sees nothing.
        let is_link = method == Method::GET
            && text(&FETCH_MODE) == Some("navigate")
            && text(&FETCH_DEST) == Some("document")
            && LINKED.contains(&uri.path());
        if is_foreign && !is_link {
            return Err(foreign(site.unwrap_or_default()));
        }
        // Browsers that send neither, with a form of another page.
        if site.is_none() && method != Method::GET && method != Method::HEAD {
            let page = text(&REFERER).map(Origin::parse);
            let own = |page: Option<Origin>| page.zip(asked).is_some_and(|(page, asked)| page.is_of(asked));
            if page.is_some_and(|page| !own(page)) {
                return Err(foreign(text(&REFERER).unwrap_or_default()));
            }
        }
        Ok(None)
    }
}

async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let local = request.extensions().get::<LocalAddress>().map(|local| local.0.ip());
    let (method, uri, headers) = (request.method(), request.uri(), request.headers());
    let checked = guard
        .check_host((uri, headers, request.version()), local)
        .and_then(|asked| guard.check_page((method, uri, headers), asked.as_ref()));
    let mut answer = match checked {
        Err(refused) => refused.into_response(),
        Ok(Some(origin)) => {
            let is_preflight = method == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
            let mut answer =
                if is_preflight { StatusCode::NO_CONTENT.into_response() } else { next.run(request).await };
            let sent = answer.headers_mut();
            sent.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            if is_preflight {
                sent.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(CORS_METHODS));
                sent.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(CORS_HEADERS));
                sent.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
                sent.insert(ALLOW_PRIVATE, HeaderValue::from_static("true"));
            }
            answer
        }
        Ok(None) => next.run(request).await,
    };
    let sent = answer.headers_mut();
    if !guard.origins.is_empty() {
        sent.append(VARY, HeaderValue::from_static("origin"));
    } else {
        sent.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    }
    sent.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

fn foreign(whose: &str) -> ApiError {
    let whose = quoted(whose);
    ApiError::new(
        StatusCode::FORBIDDEN,
        format!(
            "a browser asks for a page that is not this server's (`{whose}`); pages that may are named with \
             --allowed-origins (or MILLSTREAM_ALLOWED_ORIGINS)"
        ),
    )
}

/// A name as names are compared: lower case, without brackets and the dot of the root.
fn bare(host: &str) -> String {
    host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase()
}

fn quoted(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(QUOTED_MAX).collect()
}

/// Where a page comes from.
struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    /// From an `Origin` or the URL of a page; none for `null`.
    fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let (scheme, authority) = (uri.scheme_str()?.to_ascii_lowercase(), uri.authority()?);
        let port = authority.port_u16().or_else(|| default_port(&scheme))?;
        Some(Self { host: bare(authority.host()), port, scheme })
    }

    /// Whether it is the server that was asked under that name.
    fn is_of(&self, asked: &Authority) -> bool {
        self.host == bare(asked.host()) && Some(self.port) == asked.port_u16().or_else(|| default_port(&self.scheme))
    }

    fn text(&self) -> String {
        format!("{}://{}:{}", self.scheme, self.host, self.port)
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
