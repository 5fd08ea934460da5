//! The name server: brokers tell it which topics they have, clients ask it where a topic is.
//!
//! Speaks the protocol of Apache RocketMQ's name server and takes its command line and properties. Everything is in
//! memory and comes back with the brokers' next registrations; only the key-value configuration is kept in a file.
//!
//! The way of a route request: a frame comes in `requests`, which asks `routes` for the encoded answer; `answers` has
//! it, or it is made from `tables` and kept there until a registration changes it.
#![forbid(unsafe_code)]

mod answers;
mod cli;
mod config;
mod kv;
mod liveness;
mod name_server;
mod notify;
mod requests;
mod routes;
mod tables;
mod whole_file;

pub use cli::run;
pub use config::{ConfigError, Millis, NameServerConfig, Seconds};
pub use kv::KvError;
pub use name_server::{NameServer, StartError};
