//! JSON bodies: serde structs with the original's names and members, one file per subject.
//!
//! Members are declared in the order in which the original writes them (alphabetical), a missing one has the default
//! of the original's class, an unknown one is stepped over, `None` is not written. Read and write them with
//! [`fastjson`](crate::fastjson).

pub mod access;
pub mod assignment;
pub mod batch_ack;
pub mod cold_data;
pub mod connections;
pub mod consume_queue;
pub mod data_version;
pub mod heartbeat;
pub mod lag;
pub mod names;
pub mod offsets;
pub mod queue_locks;
pub mod register_broker;
pub mod replication;
pub mod retention;
pub mod route;
pub mod running_info;
pub mod static_topic;
pub mod stats;
pub mod subscription;
pub mod subscription_group;
pub mod topic_config;
pub mod transactions;
