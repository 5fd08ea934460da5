//! Producers and consumers for RocketMQ-compatible brokers, on tokio.
//!
//! ```no_run
//! use agena_client::{Message, Producer};
//!
//! # async fn example() -> Result<(), agena_client::ClientError> {
//! let producer = Producer::builder("greeters").name_servers("127.0.0.1:9876").start().await?;
//! let sent = producer.send(Message::new("greetings", "hello").with_tag("en")).await?;
//! assert_eq!(sent.queue.topic, "greetings");
//! producer.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! What every part of this crate keeps to:
//! - An [`Instance`] holds connections, routes and heartbeats; producers and consumers make one of their own, or share
//!   one that is given to them.
//! - Everything in the background belongs to the producer or consumer that started it. `shutdown` ends it in order and
//!   returns when it is over; dropping ends it where it stands.
//! - Errors name the step that failed ([`ClientError`]). What happens is told with `tracing`; nothing is printed, and no
//!   file is written unless its path was given.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod allocate;
pub mod choose_queue;
mod config;
mod error;
mod from_broker;
mod instance;
mod interceptor;
mod message;
mod producer;
mod request_reply;
mod route_cache;
mod send;
mod tasks;
mod trace;

pub use config::ClientConfig;
pub use error::{BrokerError, ClientError, MessageFault};
pub use instance::Instance;
pub use interceptor::{ConsumeInterceptor, SendInterceptor};
pub use message::{Batch, Message, ReceivedMessage, SendResult, SendStatus};
pub use producer::{PendingSend, Producer, ProducerBuilder};
pub use request_reply::Reply;
pub use route_cache::TopicRoute;
pub use send::SendSettings;
