//! What a sub-command is: one table entry with its name, options, examples, the shape of its `--json` output and the
//! function that runs it. Parsing, `-h`, the list of commands and the checks of required options all come from it.
//!
//! Names, options and their required-ness are the original's (`org.apache.rocketmq.tools.command.*SubCommand`); usage
//! texts keep the form that its users know (commons-cli's), and add examples. New everywhere: `--json`.

use std::ffi::OsString;
use std::fmt::Write;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::call::Call;
use crate::failure::Failure;

/// The width to which the original folds its usage texts.
const HELP_COLUMNS: usize = 110;

/// One option of a sub-command.
pub(crate) struct Opt {
    pub(crate) short: Option<char>,
    pub(crate) long: &'static str,
    pub(crate) takes_value: bool,
    pub(crate) need: Need,
    pub(crate) help: &'static str,
}

/// Whether a sub-command can run without an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Optional,
    Required,
    /// Required, as in the original, unless one of these options of ours is given.
    RequiredUnless(&'static [&'static str]),
    /// Exactly one of the options that are marked so.
    OneOf,
}

/// An option with a value.
pub(crate) const fn value(short: char, long: &'static str, help: &'static str) -> Opt {
    Opt {
        short: Some(short),
        long,
        takes_value: true,
        need: Need::Optional,
        help,
    }
}

/// An option with a value and without a one-letter name.
pub(crate) const fn long_value(long: &'static str, help: &'static str) -> Opt {
    Opt {
        short: None,
        long,
        takes_value: true,
        need: Need::Optional,
        help,
    }
}

/// An option without a value.
pub(crate) const fn flag(short: char, long: &'static str, help: &'static str) -> Opt {
    Opt {
        short: Some(short),
        long,
        takes_value: false,
        need: Need::Optional,
        help,
    }
}

/// An option without a value and without a one-letter name.
pub(crate) const fn long_flag(long: &'static str, help: &'static str) -> Opt {
    Opt {
        short: None,
        long,
        takes_value: false,
        need: Need::Optional,
        help,
    }
}

impl Opt {
    pub(crate) const fn required(mut self) -> Self {
        self.need = Need::Required;
        self
    }

    pub(crate) const fn required_unless(mut self, others: &'static [&'static str]) -> Self {
        self.need = Need::RequiredUnless(others);
        self
    }

    pub(crate) const fn one_of(mut self) -> Self {
        self.need = Need::OneOf;
        self
    }

    /// The name by which messages call it: the letter if there is one.
    fn key(&self) -> String {
        self.short
            .map_or_else(|| self.long.to_owned(), String::from)
    }

    /// `-t <arg>` as it stands in a usage line.
    fn usage(&self) -> String {
        let name = self
            .short
            .map_or_else(|| format!("--{}", self.long), |letter| format!("-{letter}"));
        if self.takes_value {
            format!("{name} <arg>")
        } else {
            name
        }
    }

    fn arg(&self) -> clap::Arg {
        let arg = clap::Arg::new(self.long)
            .long(self.long)
            .action(if self.takes_value {
                clap::ArgAction::Set
            } else {
                clap::ArgAction::SetTrue
            });
        let arg = if self.takes_value {
            arg.num_args(1).allow_negative_numbers(true)
        } else {
            arg
        };
        self.short
            .map_or_else(|| arg.clone(), |letter| arg.clone().short(letter))
    }
}

/// The options that every sub-command has.
const COMMON: [Opt; 3] = [
    flag('h', "help", "Print help"),
    value(
        'n',
        "namesrvAddr",
        "Name server address list, eg: '192.168.0.1:9876;192.168.0.2:9876'",
    ),
    long_flag("json", "Print the answer as JSON, one document per line"),
];

/// A line to try, and what it is good for.
pub(crate) struct Example {
    pub(crate) arguments: &'static str,
    pub(crate) effect: &'static str,
}

/// An example for the table.
pub(crate) const fn example(arguments: &'static str, effect: &'static str) -> Example {
    Example { arguments, effect }
}

/// One sub-command.
pub(crate) struct SubCommand {
    pub(crate) name: &'static str,
    /// One line for the list of commands.
    pub(crate) about: &'static str,
    /// Its own options, required ones in the order in which the original names them when they are missing.
    pub(crate) options: &'static [Opt],
    pub(crate) examples: &'static [Example],
    /// What a document of `--json` looks like.
    pub(crate) json: &'static str,
    pub(crate) run: fn(&mut Call) -> Result<(), Failure>,
}

/// What came out of reading the command line.
pub(crate) enum Parsed {
    Help,
    Run(Options),
}

/// The values given on the command line, trimmed as the original trims them.
pub(crate) struct Options {
    matches: clap::ArgMatches,
}

impl Options {
    /// The value of option `long`; none as well if the sub-command has no such option.
    pub(crate) fn get(&self, long: &str) -> Option<&str> {
        self.matches
            .try_get_one::<String>(long)
            .ok()
            .flatten()
            .map(|text| text.trim())
    }

    /// The value of an option that the table marks as required.
    pub(crate) fn required(&self, long: &'static str) -> Result<&str, Failure> {
        self.get(long)
            .ok_or_else(|| Failure::Input(format!("option --{long} is missing")))
    }

    /// Whether a flag is set.
    pub(crate) fn is_set(&self, long: &str) -> bool {
        self.matches.get_flag(long)
    }

    /// A number, or what it is without the option.
    pub(crate) fn number<N: std::str::FromStr>(
        &self,
        long: &'static str,
    ) -> Result<Option<N>, Failure> {
        let Some(text) = self.get(long) else {
            return Ok(None);
        };
        let number = text
            .parse()
            .map_err(|_| Failure::Input(format!("--{long} takes a number, not '{text}'")))?;
        Ok(Some(number))
    }

    /// `true` or `false`; the original takes every other word for false, which hides typing errors.
    pub(crate) fn truth(&self, long: &'static str) -> Result<Option<bool>, Failure> {
        match self.get(long).map(str::to_ascii_lowercase).as_deref() {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => Err(Failure::Input(format!(
                "--{long} takes true or false, not '{other}'"
            ))),
        }
    }
}

impl SubCommand {
    /// All options, sorted as usage texts show them.
    fn all_options(&self) -> Vec<&Opt> {
        let mut options: Vec<&Opt> = self.options.iter().chain(&COMMON).collect();
        options.sort_by_key(|option| option.key().to_ascii_lowercase());
        options
    }

    /// Reads the arguments behind the sub-command's name.
    ///
    /// # Errors
    /// The line that says what is wrong; the usage text is to follow it.
    pub(crate) fn parse(
        &self,
        arguments: impl IntoIterator<Item = OsString>,
    ) -> Result<Parsed, String> {
        let parser = clap::Command::new(self.name)
            .no_binary_name(true)
            .disable_help_flag(true)
            .disable_version_flag(true)
            .args_override_self(true)
            .args(self.all_options().into_iter().map(Opt::arg));
        let matches = parser
            .try_get_matches_from(arguments)
            .map_err(|error| complaint(&error))?;
        if matches.get_flag("help") {
            return Ok(Parsed::Help);
        }
        self.check_needs(&matches)?;
        Ok(Parsed::Run(Options { matches }))
    }

    fn check_needs(&self, matches: &clap::ArgMatches) -> Result<(), String> {
        let given = |option: &&Opt| {
            matches.value_source(option.long) == Some(clap::parser::ValueSource::CommandLine)
        };
        let mut missing = Vec::new();
        let choice: Vec<&Opt> = self
            .options
            .iter()
            .filter(|option| option.need == Need::OneOf)
            .collect();
        let chosen: Vec<&&Opt> = choice.iter().filter(|option| given(option)).collect();
        match chosen.as_slice() {
            [] if !choice.is_empty() => {
                let words: Vec<String> = choice
                    .iter()
                    .map(|option| format!("-{} {}", option.key(), option.help))
                    .collect();
                missing.push(format!("[{}]", words.join(", ")));
            }
            [first, second, ..] => {
                return Err(format!(
                    "The option '{}' was specified but an option from this group has already been selected: '{}'",
                    second.key(),
                    first.key()
                ));
            }
            [] | [_] => {}
        }
        let is_given = |long: &&str| {
            matches.value_source(long) == Some(clap::parser::ValueSource::CommandLine)
        };
        let required = self.options.iter().filter(|option| match option.need {
            Need::Required => true,
            Need::RequiredUnless(others) => !others.iter().any(&is_given),
            Need::Optional | Need::OneOf => false,
        });
        missing.extend(required.filter(|option| !given(option)).map(Opt::key));
        match missing.as_slice() {
            [] => Ok(()),
            [one] => Err(format!("Missing required option: {one}")),
            many => Err(format!("Missing required options: {}", many.join(", "))),
        }
    }

    /// The usage text in the original's form, without examples.
    pub(crate) fn usage(&self) -> String {
        let options = self.all_options();
        let mut text = fold(&self.usage_line(&options), HELP_COLUMNS, 7);
        text.push('\n');
        let heads: Vec<String> = options
            .iter()
            .map(|option| {
                let letter = option
                    .short
                    .map_or_else(|| "   ".to_owned(), |letter| format!("-{letter},"));
                let argument = if option.takes_value { " <arg>" } else { "" };
                format!(" {letter}--{}{argument}", option.long)
            })
            .collect();
        let width = heads.iter().map(String::len).max().unwrap_or(0) + 3;
        for (head, option) in heads.iter().zip(&options) {
            let line = format!("{head:<width$}{}", option.help);
            text.push_str(&fold(&line, HELP_COLUMNS, width));
            text.push('\n');
        }
        text
    }

    fn usage_line(&self, options: &[&Opt]) -> String {
        let mut line = format!("usage: mqadmin {}", self.name);
        let mut choice_written = false;
        for option in options {
            match option.need {
                Need::Required | Need::RequiredUnless(_) => write!(line, " {}", option.usage()),
                Need::Optional => write!(line, " [{}]", option.usage()),
                Need::OneOf if choice_written => Ok(()),
                Need::OneOf => {
                    choice_written = true;
                    let all: Vec<String> = options
                        .iter()
                        .filter(|option| option.need == Need::OneOf)
                        .map(|option| option.usage())
                        .collect();
                    write!(line, " {}", all.join(" | "))
                }
            }
            .expect("a String takes every text");
        }
        line
    }

    /// The text of `-h`: what it is for, usage, examples, the shape of the JSON.
    pub(crate) fn help(&self) -> String {
        let mut text = format!("{}: {}\n\n{}", self.name, self.about, self.usage());
        if !self.examples.is_empty() {
            text.push_str("\nExamples:\n");
            for example in self.examples {
                let arguments = if example.arguments.is_empty() {
                    ""
                } else {
                    " "
                };
                text.push_str(&format!(
                    "  mqadmin {}{arguments}{}\n      {}\n",
                    self.name, example.arguments, example.effect
                ));
            }
        }
        text.push_str(&format!(
            "\nWith --json:\n  {}\n\nWithout -n the servers come from NAMESRV_ADDR, else 127.0.0.1:9876. Exit code: 0 done, 1 wrong usage, 2 a \
             step failed.\n",
            self.json
        ));
        text
    }
}

/// The line for a command line that clap refuses, in the original's words.
fn complaint(error: &clap::Error) -> String {
    let named = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => argument.clone(),
        _ => String::new(),
    };
    let bare = named.split_whitespace().next().unwrap_or_default();
    match error.kind() {
        ErrorKind::UnknownArgument if bare.starts_with('-') => {
            format!("Unrecognized option: {bare}")
        }
        ErrorKind::UnknownArgument => format!("Unrecognized argument: {bare}"),
        ErrorKind::InvalidValue | ErrorKind::WrongNumberOfValues | ErrorKind::TooFewValues => {
            format!(
                "Missing argument for option: {}",
                bare.trim_start_matches('-')
            )
        }
        _ => error
            .to_string()
            .lines()
            .next()
            .unwrap_or_default()
            .trim_start_matches("error: ")
            .to_owned(),
    }
}

/// Breaks a line at blanks so that no part is wider than `columns`; later parts are indented.
fn fold(line: &str, columns: usize, indent: usize) -> String {
    let mut folded = String::new();
    let mut rest = line;
    let mut lead = 0;
    while lead + rest.len() >= columns {
        let room = columns - lead;
        let Some(cut) = rest
            .get(..room)
            .and_then(|head| head.rfind(' '))
            .filter(|cut| *cut > 0)
        else {
            break;
        };
        folded.push_str(rest[..cut].trim_end());
        folded.push('\n');
        folded.push_str(&" ".repeat(indent));
        rest = rest[cut..].trim_start();
        lead = indent;
    }
    folded.push_str(rest);
    folded
}
