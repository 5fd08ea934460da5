//! Every message sent twice, while name server and broker are killed: each is stored once, and both answers are alike.
//! `.ci/dedup` calls it; the servers are those of `.ci/servers`.
//!
//! Producers number their messages and batches and send each of them a second time: right behind the first in the same
//! write, after its answer, some hundred messages later, or when a killed broker is back. The second one asks for another
//! queue, comes in another form (codes 10 and 310, both headers), and is to be answered as the first. What was not answered
//! when the broker died is sent until it is. Each kill waits until the broker has written down what it remembers since its
//! start, so that the next start begins within the log. In the end the queues are read back: every number once, at the place
//! that was answered.

mod audit;
mod link;
mod pace;
mod producer;
#[path = "../crash/servers.rs"]
mod servers;

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;

use audit::{Stored, runtime};
use link::Link;
use pace::Pace;
use producer::Producer;
use servers::Servers;

const TOPIC: &str = "dedup";
const QUEUES: i32 = 4;

/// Nothing may take longer than this.
const LIMIT: Duration = Duration::from_secs(900);

/// The broker writes down what it remembers in this time, when there is enough of it.
const WRITTEN_WITHIN: Duration = Duration::from_secs(60);

pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Parser)]
#[command(about = "Sends every message twice over kills and looks whether each is there once")]
struct Arguments {
    /// Directory of the servers, made if it is not there
    directory: PathBuf,
    /// Messages of all producers together; each is sent at least twice
    #[arg(long, default_value_t = 2_000)]
    messages: u64,
    /// Kills of name server and broker, spread over the messages
    #[arg(long, default_value_t = 2)]
    kills: u64,
    /// Producers, each with an id and a connection of its own
    #[arg(long, default_value_t = 8)]
    producers: u64,
    /// What every chance comes from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Another line of broker.conf, `key=value`
    #[arg(long = "set")]
    settings: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("stopped: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Counts what holds and what does not.
#[derive(Default)]
struct Verdict {
    passed: u32,
    failed: u32,
}

impl Verdict {
    fn check(&mut self, what: &str, faults: &[String]) {
        if faults.is_empty() {
            self.passed += 1;
            return say(&format!("{what}: ok"));
        }
        self.failed += 1;
        say(&format!("{what}: FAILED, {} times", faults.len()));
        for fault in faults.iter().take(10) {
            say(&format!("  {fault}"));
        }
    }
}

fn run(arguments: &Arguments) -> Outcome<u32> {
    let servers = Servers::new(&arguments.directory, &arguments.settings);
    servers.up()?;
    let addresses = servers.addresses()?;
    say(&format!(
        "name server {}, broker {}",
        addresses.name_server, addresses.broker
    ));
    let address = addresses.broker;
    Link::connect(&address)?.create_topic(TOPIC, QUEUES)?;
    let before = anonymous_kib(&arguments.directory)?;
    let begin = Instant::now();
    let mut unwritten = Vec::new();
    let mut producers = load(arguments, &servers, &address, &mut unwritten)?;
    let (took, after) = (begin.elapsed(), anonymous_kib(&arguments.directory)?);
    let counters = runtime(&address)?;

    let mut verdict = Verdict::default();
    verdict.check(
        "what is remembered is written down between kills",
        &unwritten,
    );
    let faults: Vec<String> = producers
        .iter_mut()
        .flat_map(Producer::take_faults)
        .collect();
    verdict.check("second answers equal the first", &faults);
    let stored = Stored::read(&address)?;
    verdict.check(
        "each is stored once, where it was answered",
        &stored.compare(&producers),
    );

    servers.stop()?;
    servers.up()?;
    for producer in &mut producers {
        producer.repeat_latest()?;
    }
    let faults: Vec<String> = producers
        .iter_mut()
        .flat_map(Producer::take_faults)
        .collect();
    verdict.check("after an orderly stop they are still known", &faults);
    let again = Stored::read(&address)?;
    verdict.check(
        "and nothing was stored for them",
        &again.compare(&producers),
    );
    servers.stop()?;

    let sent: u64 = producers.iter().map(|producer| producer.requests).sum();
    let number = |name: &str| counters.get(name).map_or("?", String::as_str);
    say(&format!(
        "{} messages of {} producers in {sent} requests, {} kills, {:.1} s",
        stored.count(),
        arguments.producers,
        arguments.kills,
        took.as_secs_f64()
    ));
    say(&format!(
        "since the last start: {} repeats, {} refused; {} numbers of {} producers are remembered",
        number("dedupRepeats"),
        number("dedupRefused"),
        number("dedupSequences"),
        number("dedupProducers")
    ));
    say(&format!(
        "anonymous memory of the broker: {before} KiB before, {after} KiB after"
    ));
    say(&format!(
        "{} passed, {} failed",
        verdict.passed, verdict.failed
    ));
    Ok(verdict.failed)
}

/// Has all messages sent twice, and kills the servers meanwhile.
fn load(
    arguments: &Arguments,
    servers: &Servers,
    address: &str,
    unwritten: &mut Vec<String>,
) -> Outcome<Vec<Producer>> {
    let pace = Arc::new(Pace::default());
    let each = arguments.messages.div_ceil(arguments.producers);
    let threads: Vec<_> = (0..arguments.producers)
        .map(|number| {
            let mut producer = Producer::new(number, address, arguments.seed);
            let pace = Arc::clone(&pace);
            std::thread::spawn(move || -> Outcome<Producer> {
                producer.send_all(each, &pace)?;
                Ok(producer)
            })
        })
        .collect();
    let deadline = Instant::now() + LIMIT;
    let mut started = SystemTime::now();
    for kill in 1..=arguments.kills {
        let due = each * arguments.producers * kill / (arguments.kills + 1);
        let are_done = || threads.iter().all(|thread| thread.is_finished());
        let goes_on = || Instant::now() < deadline && !are_done();
        while pace.answered() < due && goes_on() {
            std::thread::sleep(Duration::from_millis(1));
        }
        // The producers rest meanwhile, or a fast broker would have answered everything before the kill.
        pace.rest(true);
        let is_written = wait_for_snapshot(&arguments.directory, started);
        pace.rest(false);
        if !is_written {
            unwritten.push(format!("nothing in front of kill {kill}"));
        }
        let resumed = pace.answered();
        // None of them may have anything left to send.
        while is_written && pace.answered() == resumed && goes_on() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let answered = pace.answered();
        let begin = Instant::now();
        servers.kill()?;
        // Those that were answered before `up` returns would be far beyond the next kill by then.
        pace.rest(true);
        started = SystemTime::now();
        servers.up()?;
        pace.rest(false);
        say(&format!(
            "kill {kill} after {answered} messages, up again after {} ms",
            begin.elapsed().as_millis()
        ));
    }
    let joined = threads.into_iter().map(|thread| thread.join());
    joined
        .map(|joined| joined.map_err(|_| "a producer panicked")?)
        .collect()
}

/// Whether the broker writes down what it remembers, after a time; at its start it may do so too.
fn wait_for_snapshot(directory: &Path, after: SystemTime) -> bool {
    let file = directory.join("store/config/dedup.windows");
    let deadline = Instant::now() + WRITTEN_WITHIN;
    while Instant::now() < deadline {
        let written = std::fs::metadata(&file).and_then(|meta| meta.modified());
        if written.is_ok_and(|written| written > after) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

/// What the broker's process holds itself.
fn anonymous_kib(directory: &Path) -> Outcome<u64> {
    let pid = std::fs::read_to_string(directory.join("broker.pid"))?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim()))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.ok_or("no RssAnon")?.parse()?)
}
