//! The binary `mqadmin`.

use std::process::ExitCode;

fn main() -> ExitCode {
    agena_admin::run(std::env::args_os().skip(1))
}
