//! The environment variables that AWS tools share. Source: "Settings reference" in the AWS SDKs and Tools Reference
//! Guide.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use aws_credential_types::Credentials;
use millstream_core::{Error, Result};

/// The environment, as a function from names to values; tests bring their own.
#[derive(Clone)]
pub(crate) struct Environment(Arc<Lookup>);

type Lookup = dyn Fn(&str) -> Option<String> + Send + Sync;

impl Environment {
    /// That of the process.
    pub(crate) fn of_process() -> Self {
        Self::new(|name| std::env::var(name).ok())
    }

    pub(crate) fn new(lookup: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(lookup))
    }

    /// A variable that is set and not empty.
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.trim().is_empty())
    }

    /// True where a variable says `true`, in any case.
    pub(crate) fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// The folder that `~` stands for.
    pub(crate) fn home(&self) -> Option<PathBuf> {
        self.get("HOME").or_else(|| self.get("USERPROFILE")).map(PathBuf::from)
    }

    /// Another address of a service: `AWS_ENDPOINT_URL_STS`, else `AWS_ENDPOINT_URL`.
    pub(crate) fn endpoint_url(&self, service: &str) -> Option<String> {
        if self.is_true("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") {
            return None;
        }
        self.get(&format!("AWS_ENDPOINT_URL_{service}")).or_else(|| self.get("AWS_ENDPOINT_URL"))
    }

    /// Access keys that are variables themselves.
    ///
    /// # Errors
    /// `Environment`: one of the two is missing.
    pub(crate) fn keys(&self) -> Result<Option<Credentials>> {
        const NAMES: [&str; 2] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
        let only = |set: &str, missing: &str| {
            Err(Error::environment(format!("{set} is set, but not {missing}: set both, or none of them")))
        };
        match (self.get(NAMES[0]), self.get(NAMES[1])) {
            (None, None) => Ok(None),
            (Some(_), None) => only(NAMES[0], NAMES[1]),
            (None, Some(_)) => only(NAMES[1], NAMES[0]),
            (Some(id), Some(secret)) => {
                let (id, secret) = (id.trim(), secret.trim());
                Ok(Some(Credentials::new(id, secret, self.get("AWS_SESSION_TOKEN"), None, "environment")))
            }
        }
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Environment")
    }
}
