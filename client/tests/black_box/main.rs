//! The client crate against running servers, seen from outside.
//!
//! With `AGENA_TEST_NAMESRV=host:port` against the servers there, Apache's or ours (they must create topics and groups on
//! demand); without it against a name server and broker of this workspace, started for the run.
#![expect(
    clippy::unwrap_used,
    reason = "what a test does not expect ends it, in its helpers too"
)]

mod admin_requests;
mod broadcast;
mod consume;
mod failover;
mod later;
mod ordered;
mod produce;
mod pull;
mod request_reply;
mod support;
mod trace;
mod transaction;
