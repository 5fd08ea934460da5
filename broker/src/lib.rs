//! The broker: topics, groups, delivery.
#![forbid(unsafe_code)]

pub mod config;
pub mod delay;
pub mod groups;
pub mod name_table;
pub mod order_locks;
pub mod snapshot_files;
pub mod topics;
pub mod versioned_table;
