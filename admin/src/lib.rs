//! mqadmin: inspects and steers name servers and brokers, ours and the original's.
//!
//! [`run`] is the whole surface. `command` says what a sub-command is, `commands` lists them all, each family of
//! them has its file below `commands/`; `remote` asks servers, `output` and `table` print.
#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

mod call;
mod command;
mod commands;
mod failure;
#[cfg(test)]
mod manual;
mod message;
mod output;
mod pull;
mod remote;
mod table;
mod time_text;
mod track;
mod version_name;

use call::Call;
use command::{Options, Parsed, SubCommand};
use failure::Failure;
use output::{Form, Output};
use remote::Remote;

/// Where servers are sought when nothing says otherwise.
const DEFAULT_NAME_SERVER: &str = "127.0.0.1:9876";

/// Exit code of a command line that makes no sense, as the original has it.
const WRONG_USAGE: u8 = 1;
/// Exit code when a step failed. The original exits with 0.
const FAILED: u8 = 2;

/// Runs what the arguments (without the program's name) ask for, and prints to standard output and error.
///
/// Blocks, with a runtime of its own: not to be called from within an async function.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut arguments = arguments.into_iter();
    let Some(name) = arguments.next() else {
        print(&commands::list());
        return ExitCode::SUCCESS;
    };
    let name = whole_name(&name, &mut arguments);
    match name.as_str() {
        "-h" | "--help" => {
            print(&commands::list());
            ExitCode::SUCCESS
        }
        "-V" | "--version" => {
            print(&format!("mqadmin {} (agena)\n", env!("CARGO_PKG_VERSION")));
            ExitCode::SUCCESS
        }
        "help" => {
            let name = arguments.next();
            help(name.map(|name| whole_name(&name, &mut arguments)))
        }
        _ => match commands::find(&name) {
            Some(command) => execute(command, arguments),
            None => unknown(&name),
        },
    }
}

/// The name of a sub-command, which for some has two words.
fn whole_name(first: &OsStr, rest: &mut impl Iterator<Item = OsString>) -> String {
    let first = first.to_string_lossy().into_owned();
    if !commands::is_first_word(&first) {
        return first;
    }
    match rest.next() {
        Some(second) => format!("{first} {}", second.to_string_lossy()),
        None => first,
    }
}

fn help(name: Option<String>) -> ExitCode {
    let Some(name) = name else {
        print(&commands::list());
        return ExitCode::SUCCESS;
    };
    match commands::find(&name) {
        Some(command) => {
            print(&command.help());
            ExitCode::SUCCESS
        }
        None => unknown(&name),
    }
}

/// A name that is no sub-command of ours: half of one, the original's, or nobody's.
fn unknown(name: &str) -> ExitCode {
    let first = name.split(' ').next().unwrap_or(name);
    if commands::is_first_word(first) {
        complain(&format!("usage:\n{}", commands::family(first)));
        return ExitCode::from(WRONG_USAGE);
    }
    match commands::unsupported(name) {
        Some((known, why)) => {
            complain(&format!(
                "The sub command {known} is not supported: {why}\n"
            ));
            ExitCode::from(FAILED)
        }
        None => {
            complain(&format!("The sub command {name} not exist.\n"));
            ExitCode::from(WRONG_USAGE)
        }
    }
}

fn execute(command: &SubCommand, arguments: impl Iterator<Item = OsString>) -> ExitCode {
    match command.parse(arguments) {
        Ok(Parsed::Help) => {
            print(&command.help());
            ExitCode::SUCCESS
        }
        Ok(Parsed::Run(options)) => match perform(command, options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => conclude(command, &failure),
        },
        Err(complaint) => {
            complain(&format!("{complaint}\n{}", command.usage()));
            ExitCode::from(WRONG_USAGE)
        }
    }
}

fn perform(command: &SubCommand, options: Options) -> Result<(), Failure> {
    let from_environment = std::env::var("NAMESRV_ADDR")
        .ok()
        .filter(|list| !list.trim().is_empty());
    let name_servers = options
        .get("namesrvAddr")
        .map(str::to_owned)
        .or(from_environment)
        .unwrap_or(DEFAULT_NAME_SERVER.to_owned());
    let form = if options.is_set("json") {
        Form::Json
    } else {
        Form::Text
    };
    let out = Output::new(form, Box::new(std::io::stdout().lock()));
    (command.run)(&mut Call {
        remote: Remote::new(&name_servers)?,
        options,
        out,
    })
}

fn conclude(command: &SubCommand, failure: &Failure) -> ExitCode {
    match failure {
        // Whoever read our output has seen enough (`| head`).
        Failure::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Failure::Input(_) => {
            complain(&format!(
                "{}: {failure}\nSee 'mqadmin help {}'.\n",
                command.name, command.name
            ));
            ExitCode::from(WRONG_USAGE)
        }
        Failure::Unreachable { .. }
        | Failure::Refused { .. }
        | Failure::Garbled { .. }
        | Failure::Absent(_)
        | Failure::Output(_) => {
            complain(&format!("{} failed: {failure}\n", command.name));
            ExitCode::from(FAILED)
        }
    }
}

/// Prints, and does not mind when nobody reads.
fn print(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn complain(text: &str) {
    use std::io::Write;
    let _ = std::io::stderr().write_all(text.as_bytes());
}
