//! AWS credentials as every AWS tool finds them, and kept until they are about to end.
//!
//! `search` asks one place after the other; each place is a file of its own. The profile files are parsed by
//! `aws-runtime`, the parser of the AWS SDK, and requests are signed by `aws-sigv4`. The requests themselves are few
//! and small, so they go through the HTTP client that is there; `aws-config` was not enough: it ignores
//! `duration_seconds` and `mfa_serial`, and waits for a `credential_process` without end.

pub(crate) mod answer;
pub(crate) mod environment;
pub(crate) mod metadata;
pub(crate) mod process;
pub(crate) mod profile;
pub(crate) mod search;
pub(crate) mod sso;
pub(crate) mod sts;

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use aws_credential_types::Credentials;
use millstream_core::{Clock, Error, Result};
use parking_lot::Mutex;

/// Temporary credentials are replaced so long before they end …
const RENEW_BEFORE: Duration = Duration::from_secs(5 * 60);
/// … and up to this much earlier, so that processes that were started together do not ask together.
const JITTER_MAX: Duration = Duration::from_secs(60);
/// Where they can't be replaced although they still hold, this is how long nobody tries again.
const PUT_OFF: Duration = Duration::from_secs(30);

/// A place that may have credentials.
#[async_trait]
pub(crate) trait Place: Send + Sync {
    /// Credentials; none where this place is not set up.
    ///
    /// # Errors
    /// `Environment`: a person must change something. `Retry`: the place has credentials, but not now.
    async fn find(&self) -> Result<Option<Credentials>>;
}

/// Credentials, looked for when they are needed and kept until they are about to end.
pub(crate) struct CredentialSource {
    place: Box<dyn Place>,
    clock: Arc<dyn Clock>,
    /// A `parking_lot` mutex: nothing awaits while it is held.
    known: Mutex<Option<Known>>,
    /// Held by the one who looks for credentials. Whoever has none waits for it; whoever has some does not.
    looking: tokio::sync::Mutex<()>,
}

/// Times are since the Unix epoch.
struct Known {
    credentials: Credentials,
    renew_at: Duration,
    ends_at: Duration,
}

impl CredentialSource {
    pub(crate) fn of(place: impl Place + 'static, clock: Arc<dyn Clock>) -> Self {
        Self { place: Box::new(place), clock, known: Mutex::default(), looking: tokio::sync::Mutex::default() }
    }

    /// Credentials that hold.
    ///
    /// # Errors
    /// `Environment`: there are none, or what is set up can't be used. `Retry`: the place that has them did not answer.
    pub(crate) async fn get(&self) -> Result<Credentials> {
        if let Some(credentials) = self.known_until(|known| known.renew_at) {
            return Ok(credentials);
        }
        let _looking = match self.known_until(|known| known.ends_at) {
            None => self.looking.lock().await,
            Some(credentials) => match self.looking.try_lock() {
                Ok(looking) => looking,
                Err(_) => return Ok(credentials),
            },
        };
        // Somebody may have found them meanwhile.
        if let Some(credentials) = self.known_until(|known| known.renew_at) {
            return Ok(credentials);
        }
        match self.find().await {
            Ok(known) => Ok(self.known.lock().insert(known).credentials.clone()),
            Err(error) => self.old_ones(error),
        }
    }

    /// AWS does not take them any more.
    pub(crate) fn forget(&self) {
        *self.known.lock() = None;
    }

    async fn find(&self) -> Result<Known> {
        let credentials = self.place.find().await?.ok_or_else(|| {
            Error::environment(
                "there are no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile \
                 (AWS_PROFILE), or run where a role is attached",
            )
        })?;
        let Some(expiry) = credentials.expiry() else {
            return Ok(Known { credentials, renew_at: Duration::MAX, ends_at: Duration::MAX });
        };
        let (now, ends_at) = (self.now(), expiry.duration_since(UNIX_EPOCH).unwrap_or_default());
        let left = ends_at.saturating_sub(now);
        if left.is_zero() {
            return Err(Error::retry("the AWS credentials that were found have ended: renew them at their source"));
        }
        // Those that are short-lived are kept for half of their time.
        let before = (RENEW_BEFORE + JITTER_MAX.mul_f64(rand::random())).min(left / 2);
        Ok(Known { credentials, renew_at: ends_at - before, ends_at })
    }

    /// What there is to go on with after a failure.
    fn old_ones(&self, error: Error) -> Result<Credentials> {
        let now = self.now();
        match self.known.lock().as_mut().filter(|known| now < known.ends_at) {
            Some(known) => {
                tracing::warn!(%error, "AWS credentials can't be renewed; those that are there still hold");
                known.renew_at = now + PUT_OFF;
                Ok(known.credentials.clone())
            }
            None => Err(error),
        }
    }

    fn known_until(&self, until: impl Fn(&Known) -> Duration) -> Option<Credentials> {
        let now = self.now();
        self.known.lock().as_ref().filter(|known| now < until(known)).map(|known| known.credentials.clone())
    }

    fn now(&self) -> Duration {
        Duration::from_micros(u64::try_from(self.clock.now_us()).unwrap_or(0))
    }
}
