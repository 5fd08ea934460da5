//! `mqbroker`: the broker as a process of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    agena_broker::run(std::env::args_os().skip(1))
}
