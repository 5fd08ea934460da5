//! A broker asked through a real socket: each check of sends and pulls, each answer, the long poll and the restart.

mod client;
mod life;
mod pull;
mod send;
