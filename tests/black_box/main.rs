//! Black-box tests: the real `agena` process, spoken to by raw bytes and by the client crate. Every test has servers and a
//! data directory of its own.

mod bad_input;
mod bad_start;
mod crash;
mod dead_letters;
mod dedup;
mod full_disk;
mod mqadmin;
mod orderly;
mod produce_consume;
mod raw;
mod readme;
mod reset;
mod retention;
mod retry;
mod servers;
mod stored;
mod story;
mod transactions;
