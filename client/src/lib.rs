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
mod attempts;
pub mod choose_queue;
mod config;
mod consume_by_key;
mod consume_concurrently;
mod consume_orderly;
mod consumer_stats;
mod delivery;
mod error;
mod from_broker;
mod give_back;
mod instance;
mod interceptor;
mod message;
mod offset_store;
mod outbox;
mod process_queue;
mod processed;
mod producer;
mod producer_id;
mod pull;
mod pull_consumer;
mod push_consumer;
mod rebalance;
mod request_reply;
mod route_cache;
mod send;
mod spool;
mod subscription;
mod tasks;
mod trace;
mod transaction_producer;

pub use config::ClientConfig;
pub use consume_concurrently::Consumed;
pub use consume_orderly::ConsumedInOrder;
pub use delivery::{Delivery, Failback, FaultCounts, FaultPolicy};
pub use error::{BrokerError, ClientError, MessageFault};
pub use give_back::RetryDelay;
pub use instance::Instance;
pub use interceptor::{ConsumeInterceptor, SendInterceptor};
pub use message::{Batch, Message, ReceivedMessage, SendResult, SendStatus};
pub use offset_store::{BroadcastOffsets, ConsumeFrom, FileOffsets, MemoryOffsets};
#[cfg(feature = "sqlite")]
pub use outbox::SqliteOutbox;
pub use outbox::{Outbox, OutboxMessage, OutboxStatus, OutboxStore};
pub use process_queue::QueueLimits;
pub use processed::{Claim, FirstTime, FirstTimeGuard, MemoryKeys, ProcessedKeys, TooManyRunning};
#[cfg(feature = "sqlite")]
pub use processed::{KeysInTransaction, SqliteKeys};
pub use producer::{PendingSend, Producer, ProducerBuilder};
pub use producer_id::ProducerId;
pub use pull_consumer::{PullConsumer, PullConsumerBuilder};
pub use push_consumer::{ConsumerSettings, PushConsumer, PushConsumerBuilder};
pub use request_reply::Reply;
pub use route_cache::TopicRoute;
pub use send::SendSettings;
pub use spool::{SpoolSettings, SpoolStatus};
pub use subscription::Filter;
pub use transaction_producer::{
    Resolution, TransactionListener, TransactionProducer, TransactionResult,
};
