//! `docs/mqadmin.md`, made from the table of sub-commands; the test below says when it is no longer what the table
//! says, and with `BLESS=1` in the environment writes it anew.

use std::fmt::Write;
use std::path::Path;

use crate::command::{Need, Opt, SubCommand};
use crate::commands;

const HEAD: &str = "# mqadmin

The command line of operators, for our servers and the original's. Names, options, required options and columns are
those of RocketMQ 5.3.3; scripts and habits carry over. `mqadmin` alone lists the commands, `mqadmin help COMMAND` (or
`COMMAND -h`) explains one, names in any case.

What is different, and better:

| | original | here |
|---|---|---|
| a step fails | stack trace, exit code 0 | one line that names the step, the server and its answer; exit code 2 |
| wrong usage | message and usage, exit code 1 | the same |
| machine-readable | text only | `--json` on every command: one document a line, shapes below |
| `true`/`false` options | every other word counts as false | another word is an error |
| start | a JVM, about a second | a few milliseconds |
| `consumerProgress` | one group after the other, in no order | all at once, largest lag first |
| `consumerStatus` | writes a file per client | `-i CLIENT` shows it, `--json` has all |
| `resetOffsetByTime` | at once, for good | `--dry-run` first shows offsets, numbers of messages and the first message of each queue; `--undo` takes it back |
| dead letters | read with a consumer | `dlq list`, `dlq show`, `dlq redrive` |
| a message's life | trace topic | `messageStory`, from the log and the offsets |

Servers: `-n HOST:PORT[;HOST:PORT…]`, else the environment's `NAMESRV_ADDR`, else `127.0.0.1:9876`.

In the shapes `{\"a\",\"b\"}` names members without their values; members may be added in later versions, none is renamed
or removed. Times are milliseconds since 1970, offsets are numbers of messages within a queue.

This page is made from the program's own table: `BLESS=1 cargo test -p agena-admin manual`.
";

fn manual() -> String {
    let mut text = HEAD.to_owned();
    for command in commands::all() {
        section(&mut text, command);
    }
    text.push_str("\n## Not supported\n\nThese commands of the original answer by name that they are not there:\n\n");
    for (name, why) in commands::all_unsupported() {
        let _ = writeln!(text, "- `{name}`: {why}");
    }
    text
}

fn section(text: &mut String, command: &SubCommand) {
    let _ = write!(text, "\n## {}\n\n{}\n\n", command.name, command.about);
    if !command.options.is_empty() {
        text.push_str("| option | |\n|---|---|\n");
        for option in command.options {
            let _ = writeln!(
                text,
                "| {} | {}{} |",
                names(option),
                need(option),
                escaped(option.help)
            );
        }
        text.push('\n');
    }
    for example in command.examples {
        let line = format!("mqadmin {} {}", command.name, example.arguments);
        let _ = writeln!(text, "- `{}`: {}", line.trim_end(), example.effect);
    }
    let _ = write!(text, "\nJSON: `{}`\n", command.json);
}

fn names(option: &Opt) -> String {
    let value = if option.takes_value { " …" } else { "" };
    match option.short {
        Some(letter) => format!("`-{letter}`, `--{}{value}`", option.long),
        None => format!("`--{}{value}`", option.long),
    }
}

fn need(option: &Opt) -> String {
    match option.need {
        Need::Optional => String::new(),
        Need::Required => "**required**; ".to_owned(),
        Need::RequiredUnless(others) => {
            let others: Vec<String> = others.iter().map(|long| format!("`--{long}`")).collect();
            format!("**required** without {}; ", others.join(" or "))
        }
        Need::OneOf => "**one of these**; ".to_owned(),
    }
}

fn escaped(text: &str) -> String {
    text.replace('|', "\\|")
}

#[test]
fn the_manual_says_what_the_program_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/mqadmin.md");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, manual()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == manual(),
        "docs/mqadmin.md is out of date: BLESS=1 cargo test -p agena-admin manual"
    );
}
