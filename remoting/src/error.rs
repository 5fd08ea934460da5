//! What can go wrong between two peers, by what the caller can do about it.

use std::net::SocketAddr;
use std::time::Duration;

use agena_protocol::frame::FrameError;
use thiserror::Error;

/// The server cannot listen.
#[derive(Debug, Error)]
#[error("cannot listen on {address}: {source}")]
pub struct BindError {
    /// Where it should have listened.
    pub address: SocketAddr,
    /// What the system says, for example that the address is in use.
    pub source: std::io::Error,
}

/// A frame was not queued for a peer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendError {
    /// The connection is closed or closing.
    #[error("connection to {peer} is closed")]
    Closed {
        /// The other end.
        peer: SocketAddr,
    },
    /// The peer does not read what was sent before; its connection is being closed.
    #[error("{peer} does not read: {queued_bytes} bytes wait for it")]
    Overrun {
        /// The other end.
        peer: SocketAddr,
        /// What waits already.
        queued_bytes: usize,
    },
}

/// A call got no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CallError {
    /// There is no connection: the address does not resolve, refuses, or did so a moment ago and waits for the next
    /// attempt. Nothing was sent.
    #[error("connect to {address} failed: {reason}")]
    Connect {
        /// As the caller named it.
        address: String,
        /// What the system says.
        reason: String,
    },
    /// Nothing was sent.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The request was sent, and no answer came in time. The peer may have executed it.
    #[error("no answer from {peer} within {after:?}")]
    Timeout {
        /// The other end.
        peer: SocketAddr,
        /// How long was waited.
        after: Duration,
    },
    /// The connection closed before the answer came. The peer may have executed the request.
    #[error("connection to {peer} closed before the answer came")]
    Interrupted {
        /// The other end.
        peer: SocketAddr,
    },
    /// As many calls as may be outstanding on one connection are. Nothing was sent.
    #[error("{outstanding} calls to {peer} wait for their answers")]
    TooMany {
        /// The other end.
        peer: SocketAddr,
        /// Calls that wait.
        outstanding: usize,
    },
}

/// Why a connection ended. For the log; peers are told nothing but the end itself.
#[derive(Debug, Error)]
pub(crate) enum Ended {
    #[error("closed by the peer")]
    ByPeer,
    #[error("{0}")]
    ByUs(String),
    #[error("nothing was read or written for {0:?}")]
    Idle(Duration),
    #[error("malformed input: {0}")]
    Frame(#[from] FrameError),
    #[error("malformed PROXY protocol header")]
    ProxyHeader,
    #[error(
        "a TLS handshake came, but TLS is not supported yet; clients must use plain text (tls.enable=false)"
    )]
    Tls,
    #[error("the server stops")]
    Stopping,
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl Ended {
    /// An operator should see it: the peer broke the protocol or a bound.
    pub(crate) fn is_misbehaviour(&self) -> bool {
        matches!(self, Self::Frame(_) | Self::ProxyHeader | Self::Tls)
    }
}
