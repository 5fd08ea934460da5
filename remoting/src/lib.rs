//! Frames over sockets: the server loop and client connections on tokio. Knows no topic and no file.
//!
//! A connection is one task that holds no buffer while it waits. When its socket is readable it reads into a buffer
//! of the thread, hands every whole frame of that read to the [`Service`](server::Service) as one batch, and writes
//! the answers of the batch with one vectored write, all in one synchronous section: no lock that is contended, no
//! spawn, no channel, no allocation per frame. Answers that come later, from any thread, queue at the
//! [`Connection`](connection::Connection) and wake its task once.
//!
//! Order: answers may leave in another order than their requests came; peers match them by opaque. Frames of one
//! read are handed over in order, and so are the frames of successive reads.
//!
//! Bounds: what a peer has in flight is counted ([`limits`]); over the bound its socket is not read until it drains.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod client;
pub mod connection;
mod connection_task;
pub mod error;
pub mod file_limit;
pub mod limits;
mod outbox;
mod preamble;
pub mod reply;
pub mod server;
pub mod threads;
