//! `mqnamesrv`: see [`agena_namesrv`].

use std::process::ExitCode;

fn main() -> ExitCode {
    agena_namesrv::run(std::env::args_os().skip(1))
}
