//! The HTTP client of every connector.
//!
//! What a user writes beside an address (headers, a token, user and password in it, a body) is for the *origin* of that
//! address: scheme, host and port. A redirect is followed within it, from `http` to `https` of the same host, and to
//! hosts that the settings allow; what was written goes along on the first kind only. No request says where it was sent
//! from (`Referer`), and none leads from `https` back to `http`.
//!
//! Where private addresses are denied, the address that is connected to is looked at, not the name: a name may lead to
//! another address each time that it is asked for.

mod addresses;
mod answer;
mod settings;

use std::time::Duration;

use millstream_core::{Error, Result};
use reqwest::header::{HeaderMap, LOCATION};
use reqwest::{Client, Method, Response, StatusCode, Url, redirect};

pub(crate) use self::addresses::public_addresses;
pub use self::answer::charset;
pub(crate) use self::answer::{SERVER_WAIT_MAX, retry_after};

/// What is said of a URL whose host is written as a private address.
pub(crate) const PRIVATE_URL: &str =
    "names a private address, and `deny_private: true` is set: take that away, or name a public host";

/// Redirects that are followed for one request.
const REDIRECTS_MAX: usize = 10;

/// Where requests may lead.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Access {
    /// Hosts that a redirect may lead to, beside its own.
    pub(crate) allow_hosts: Vec<String>,
    /// No address of this machine or of a private network is connected to.
    pub(crate) deny_private: bool,
}

impl Access {
    fn allows(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        self.allow_hosts.iter().any(|allowed| {
            let allowed = allowed.to_ascii_lowercase();
            match allowed.strip_prefix('*') {
                Some("") => true,
                Some(domain) => host.ends_with(domain),
                None => host == allowed,
            }
        })
    }
}

/// What is sent, to its origin only.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    pub(crate) method: Method,
    /// For this request, beside those of the client.
    pub(crate) headers: HeaderMap,
    pub(crate) body: Option<Vec<u8>>,
}

/// Sends requests with what was written for one origin; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct HttpClient {
    client: Client,
    headers: HeaderMap,
    access: Access,
}

impl HttpClient {
    /// A client that sends `headers` with each request; answers that are compressed are unpacked.
    ///
    /// # Errors
    /// `Environment`: TLS can't be set up.
    pub(crate) fn new(headers: HeaderMap, timeout: Option<Duration>, access: Access) -> Result<Self> {
        let mut builder = Client::builder()
            .user_agent(concat!("millstream/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            // Followed below, where it is known what was written for which host.
            .redirect(redirect::Policy::none())
            .referer(false);
        if access.deny_private {
            builder = builder.dns_resolver(addresses::PublicOnly).no_proxy();
        }
        if let Some(timeout) = timeout {
            builder = builder.timeout(timeout);
        }
        let client = builder.build().map_err(|e| Error::environment("the HTTP client can't be set up").caused_by(e))?;
        Ok(Self { client, headers, access })
    }

    /// Sends a request to `url`, and follows redirects as far as they are allowed.
    ///
    /// # Errors
    /// Why there is no answer, without the address, which may hold a token.
    pub(crate) async fn send(&self, url: &Url, what: Outgoing) -> Result<Response, String> {
        let mut at = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let response = self.send_once(&at, &what, at.origin() == url.origin()).await?;
            let Some(next) = target(&at, &response) else { return Ok(response) };
            at = self.follow(url, &at, next?, &what, response.status())?;
        }
        Err(format!("more than {REDIRECTS_MAX} redirects"))
    }

    /// Sends a request, and gives the answer whatever it is.
    ///
    /// # Errors
    /// As of [`HttpClient::send`].
    pub(crate) async fn send_once(&self, url: &Url, what: &Outgoing, ours: bool) -> Result<Response, String> {
        if self.access.deny_private && url.host().is_some_and(|host| addresses::is_private_host(&host)) {
            return Err(addresses::DENIED.into());
        }
        let mut request = self.client.request(what.method.clone(), url.clone());
        if ours {
            let mut headers = self.headers.clone();
            headers.extend(what.headers.clone());
            request = request.headers(headers);
            if let Some(body) = &what.body {
                request = request.body(body.clone());
            }
        }
        request.send().await.map_err(describe)
    }

    /// The address to go on at.
    ///
    /// # Errors
    /// It must not be followed.
    fn follow(
        &self,
        origin: &Url,
        at: &Url,
        mut next: Url,
        what: &Outgoing,
        status: StatusCode,
    ) -> Result<Url, String> {
        // Whoever redirects must not choose the user; that of the settings is for its own origin.
        let own = next.origin() == origin.origin();
        let (user, password) = if own { (origin.username(), origin.password()) } else { ("", None) };
        // Neither fails for an address that has a host, and only those are asked.
        let _ = next.set_username(user);
        let _ = next.set_password(password);
        let place = next.origin().ascii_serialization();
        if !["http", "https"].contains(&next.scheme()) {
            return Err(format!("the server redirects to {}:, which is no address of the web", next.scheme()));
        }
        if at.scheme() == "https" && next.scheme() == "http" {
            return Err(format!("the server redirects to {place}, without TLS"));
        }
        let is_upgrade = is_upgrade(origin, &next);
        if !own && !is_upgrade && !next.host_str().is_some_and(|host| self.access.allows(host)) {
            return Err(format!(
                "the server redirects to another origin, {place}: write the final address as `url`, or name the host in \
                 `allow_hosts`"
            ));
        }
        let keeps_method = matches!(status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT);
        if what.method != Method::GET && !(keeps_method && own) || what.body.is_some() && !own {
            return Err(format!(
                "the server redirects a {} to {place}, which is not followed: write the final address as `url`",
                what.method
            ));
        }
        Ok(next)
    }
}

/// Where an answer leads, if it does.
fn target(at: &Url, response: &Response) -> Option<Result<Url, String>> {
    use StatusCode as S;
    let leads = [S::MOVED_PERMANENTLY, S::FOUND, S::SEE_OTHER, S::TEMPORARY_REDIRECT, S::PERMANENT_REDIRECT];
    let location = response.headers().get(LOCATION).filter(|_| leads.contains(&response.status()))?;
    let next = location.to_str().ok().and_then(|location| at.join(location).ok());
    Some(next.ok_or_else(|| "the server redirects to what is no address".to_owned()))
}

/// From `http` to `https` of one host, each on its own port.
fn is_upgrade(from: &Url, to: &Url) -> bool {
    let ports = (from.port_or_known_default(), to.port_or_known_default());
    (from.scheme(), to.scheme()) == ("http", "https") && from.host() == to.host() && ports == (Some(80), Some(443))
}

/// What is wrong with a host of `allow_hosts`.
pub(crate) fn wrong_host(host: &str) -> Option<String> {
    let name = host.strip_prefix("*.").unwrap_or(host);
    let known = host == "*"
        || !name.contains('*')
            && url::Host::parse(name).is_ok_and(|parsed| parsed.to_string().eq_ignore_ascii_case(name));
    (!known).then(|| {
        format!("`{host}` is no host: write a name such as `cdn.example.com`, `*.example.com` for all below, or `*`")
    })
}

/// True for a URL whose host is written as a private address.
pub(crate) fn is_private_url(url: &str) -> bool {
    let url = Url::parse(url).ok();
    // Of schemes other than those of HTTP, a host is not read as an address.
    let host = url.as_ref().and_then(|url| url::Host::parse(url.host_str()?).ok());
    host.is_some_and(|host| match host {
        url::Host::Ipv4(address) => addresses::is_private(address.into()),
        url::Host::Ipv6(address) => addresses::is_private(address.into()),
        url::Host::Domain(_) => false,
    })
}

/// What went wrong, down to its cause, without the address, which may hold a token.
pub(crate) fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
