//! What is written beside an address: headers, a token, hosts that may be redirected to. Checked once, and kept as it
//! is sent.

use std::collections::BTreeMap;

use millstream_core::Secret;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

use super::{PRIVATE_URL, is_private_url, wrong_host};
use crate::check::Problems;

impl Problems {
    /// The headers of each request: what the user wrote, and the bearer token. Values are marked as sensitive, so that
    /// no client logs them.
    pub(crate) fn check_headers(
        &mut self,
        headers: &BTreeMap<String, Secret>,
        bearer_token: Option<&Secret>,
    ) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let field = format!("headers.{name}");
            let (name, value) = (HeaderName::from_bytes(name.as_bytes()), sensitive(value.expose()));
            if name.is_err() {
                self.add(&field, "is no valid header name");
            }
            if value.is_none() {
                self.add(&field, "has a value with characters that no header may hold");
            }
            if let (Ok(name), Some(value)) = (name, value) {
                map.append(name, value);
            }
        }
        let Some(token) = bearer_token else { return map };
        match sensitive(&format!("Bearer {}", token.expose())) {
            None => self.add("bearer_token", "has characters that no header may hold"),
            Some(_) if map.contains_key(AUTHORIZATION) => {
                self.add("bearer_token", "is set, and so is the header `Authorization`: keep one of them");
            }
            Some(value) => drop(map.insert(AUTHORIZATION, value)),
        }
        map
    }

    /// Hosts that redirects may lead to.
    pub(crate) fn check_hosts(&mut self, hosts: &[String]) {
        for (i, host) in hosts.iter().enumerate() {
            if let Some(message) = wrong_host(host) {
                self.add(format!("allow_hosts[{i}]"), message);
            }
        }
    }

    /// An address that is denied however often it is asked.
    pub(crate) fn check_private(&mut self, field: &str, url: &str, denied: bool) {
        if denied && is_private_url(url) {
            self.add(field, PRIVATE_URL);
        }
    }
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}
