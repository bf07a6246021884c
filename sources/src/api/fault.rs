//! Failures of requests to the server.

use std::time::Duration;

/// A failure of a request or a watch. None is final: all are retried.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("{0}")]
    Config(String),
    /// A credential plugin failed.
    #[error("{0}")]
    Plugin(String),
    #[error("{0}")]
    Connection(String),
    #[error("the server has not answered for {} s", .0.as_secs())]
    Silence(Duration),
    #[error("the server answers {code}: {message}")]
    Status {
        code: u16,
        message: String,
        /// How long the server asks us to wait.
        retry_after: Option<Duration>,
    },
    #[error("invalid answer of the server: {0}")]
    Garbled(String),
}

impl Fault {
    pub(super) fn garbled(what: impl Into<String>) -> Self {
        Self::Garbled(what.into())
    }

    pub(super) fn code(&self) -> Option<u16> {
        match self {
            Self::Status { code, .. } => Some(*code),
            Self::Config(_)
            | Self::Plugin(_)
            | Self::Connection(_)
            | Self::Silence(_)
            | Self::Garbled(_) => None,
        }
    }

    pub(super) fn kind(&self) -> ErrorKind {
        match self {
            Self::Config(_) | Self::Plugin(_) => ErrorKind::Config,
            Self::Connection(_) => ErrorKind::Connection,
            Self::Silence(_) => ErrorKind::Silence,
            Self::Status { code: 401, .. } => ErrorKind::Unauthorized,
            Self::Status { code: 403, .. } => ErrorKind::Forbidden,
            Self::Status { code: 410, .. } => ErrorKind::Expired,
            Self::Status { code: 429, .. } => ErrorKind::Throttled,
            Self::Status { .. } => ErrorKind::Status,
            Self::Garbled(_) => ErrorKind::Garbled,
        }
    }

    /// Returns whether another certificate, token or address may help, so that files are read
    /// again.
    pub(super) fn is_about_access(&self) -> bool {
        match self {
            Self::Config(_) | Self::Plugin(_) | Self::Connection(_) | Self::Silence(_) => true,
            Self::Status { code, .. } => *code == 401,
            Self::Garbled(_) => false,
        }
    }

    /// Returns whether the server no longer has the version that we ask for.
    pub(super) fn is_expired(&self) -> bool {
        self.code() == Some(410)
    }

    /// Returns whether we ask for a version that the server has not reached.
    pub(super) fn is_too_new(&self) -> bool {
        match self {
            Self::Status { code, message, .. } => {
                *code == 504 && message.contains("Too large resource version")
            }
            Self::Config(_)
            | Self::Plugin(_)
            | Self::Connection(_)
            | Self::Silence(_)
            | Self::Garbled(_) => false,
        }
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::Config(_)
            | Self::Plugin(_)
            | Self::Connection(_)
            | Self::Silence(_)
            | Self::Garbled(_) => None,
        }
    }
}

/// The kinds of failures of the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorKind {
    /// The kubeconfig, the files it names or those of the service account cannot be used.
    Config,
    /// No connection, a refused handshake, or a connection that broke.
    Connection,
    /// The server sent nothing for too long.
    Silence,
    /// 401: the credentials are not accepted.
    Unauthorized,
    /// 403: the credentials do not permit it.
    Forbidden,
    /// 410: the server no longer knows the changes since our version; everything is listed again.
    Expired,
    /// 429: the server is overloaded.
    Throttled,
    /// Another status that is not success.
    Status,
    /// An answer that violates the protocol.
    Garbled,
}

impl ErrorKind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::Config,
        Self::Connection,
        Self::Silence,
        Self::Unauthorized,
        Self::Forbidden,
        Self::Expired,
        Self::Throttled,
        Self::Status,
        Self::Garbled,
    ];

    /// Returns its name, the label of a metric.
    pub fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Connection => "connection",
            Self::Silence => "silence",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Expired => "expired",
            Self::Throttled => "throttled",
            Self::Status => "status",
            Self::Garbled => "garbled",
        }
    }
}
