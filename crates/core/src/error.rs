//! One error type for the seams between crates. Its [`ErrorKind`] tells the caller what to do; its context says where.

use std::fmt;

/// `Result` with Millstream's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller should do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// It may work later without a change: a time-out, a broken connection, an answer that says "try again".
    Retry,
    /// The other side is away or busy, whatever it is asked: nobody listens, or it said "not now". Wait, then try
    /// again.
    Unavailable,
    /// This input can never work; put it aside and go on.
    Input,
    /// The pipeline file or the command line is wrong; a person must change it.
    Config,
    /// The machine is in the way: disk full, no permission, folder in use. Stop, and say what to do.
    Environment,
    /// What it was given to is closed, and does not come back while this process runs: standard output whose reader is
    /// gone.
    Gone,
    /// Stored data does not read back as it was written. Stop; never go on in silence.
    Corruption,
    /// Millstream is wrong.
    Bug,
    /// Whoever asked is stopping; nothing was done.
    Stopped,
    /// Too much at once; nothing was done. Ask again for a part of it.
    TooMuch,
}

/// An error with its kind, a message, the chain of what was being done, and its cause.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    /// Innermost first: "open segment …", "open stream wire".
    context: Vec<String>,
    /// What a person can do about it.
    advice: Option<String>,
    /// The key of the pipeline file whose value is to blame.
    setting: Option<String>,
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind`. The message says what happened, in words a user knows.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            context: Vec::new(),
            advice: None,
            setting: None,
            cause: None,
        }))
    }

    /// Shorthand for [`ErrorKind::Retry`].
    pub fn retry(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Retry, message)
    }

    /// Shorthand for [`ErrorKind::Unavailable`].
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    /// Shorthand for [`ErrorKind::Input`].
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Input, message)
    }

    /// Shorthand for [`ErrorKind::Config`].
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Config, message)
    }

    /// The same, about one setting: its key in its entry of the pipeline file, with dots where it is in a map
    /// (`batch.max`).
    pub fn setting(key: impl Into<String>, message: impl Into<String>) -> Self {
        let mut error = Self::config(message);
        error.0.setting = Some(key.into());
        error
    }

    /// Shorthand for [`ErrorKind::Environment`].
    pub fn environment(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Environment, message)
    }

    /// Shorthand for [`ErrorKind::Corruption`].
    pub fn corruption(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corruption, message)
    }

    /// Shorthand for [`ErrorKind::Bug`].
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Bug, message)
    }

    /// Keeps `cause` as the source of this error.
    #[must_use]
    pub fn caused_by(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// Adds what a person can do about it: "put it back from a backup". It is shown behind the message.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.0.advice = Some(advice.into());
        self
    }

    /// Adds what was being done, as a present-tense phrase: "open segment 000.seg". What the error says already is not
    /// said twice: a component and whoever runs it may both name it.
    #[must_use]
    pub fn context(mut self, doing: impl Into<String>) -> Self {
        let doing = doing.into();
        let said = self.0.context.last().unwrap_or(&self.0.message);
        let is_said = said.strip_prefix(&doing).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'));
        if !is_said {
            self.0.context.push(doing);
        }
        self
    }

    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The innermost message, without context and advice.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The key of the setting that is to blame, where it is one: see [`Error::setting`].
    pub fn key(&self) -> Option<&str> {
        self.0.setting.as_deref()
    }

    /// True where the same call may work later.
    pub fn is_retry(&self) -> bool {
        matches!(self.kind(), ErrorKind::Retry | ErrorKind::Unavailable)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for doing in self.0.context.iter().rev() {
            write!(f, "{doing}: ")?;
        }
        f.write_str(&self.0.message)?;
        if let Some(advice) = &self.0.advice {
            write!(f, "; {advice}")?;
        }
        if let Some(cause) = &self.0.cause {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:?}] {self}", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.cause.as_ref().map(|cause| &**cause as _)
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let (kind, advice) = match e.kind() {
            Io::StorageFull | Io::QuotaExceeded => (ErrorKind::Environment, "the disk is full: free some space"),
            Io::PermissionDenied => (ErrorKind::Environment, "permission denied: check owner and mode"),
            Io::ReadOnlyFilesystem => (ErrorKind::Environment, "the file system is read-only"),
            Io::NotFound => (ErrorKind::Environment, "no such file or folder"),
            Io::ConnectionRefused
            | Io::ConnectionReset
            | Io::ConnectionAborted
            | Io::NotConnected
            | Io::BrokenPipe
            | Io::TimedOut
            | Io::WouldBlock
            | Io::Interrupted => (ErrorKind::Retry, "the connection failed"),
            _ => (ErrorKind::Environment, "input/output error"),
        };
        Self::new(kind, advice).caused_by(e)
    }
}

impl From<arrow::error::ArrowError> for Error {
    fn from(e: arrow::error::ArrowError) -> Self {
        Self::bug("columns").caused_by(e)
    }
}

/// Adds context to the error of a result.
pub trait ResultExt<T> {
    /// Says what was being done; see [`Error::context`].
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Error>> ResultExt<T> for std::result::Result<T, E> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| e.into().context(doing()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_comes_in_order_and_once() {
        let once = Error::retry("no answer").context("source wire").context("source wire").context("run");
        assert_eq!(once.to_string(), "run: source wire: no answer");
        let in_message = Error::config("source wire: `url` is no URL").context("source wire");
        assert_eq!(in_message.to_string(), "source wire: `url` is no URL");
        let advised = Error::config("it is empty").advise("put it back").caused_by("why").context("open it");
        assert_eq!(advised.to_string(), "open it: it is empty; put it back: why");
        assert_eq!(advised.message(), "it is empty");
        let other = Error::retry("no answer").context("source wires").context("source wire");
        assert_eq!(other.to_string(), "source wire: source wires: no answer");
    }
}
