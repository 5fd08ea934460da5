//! Producers and consumers on a broker that is killed again and again, and a reader that afterwards looks whether it kept its
//! word. `.ci/crash` builds and calls it; the servers are those of `.ci/servers`.
//!
//! What must hold after every kill is in [`ledger`] and [`audit`]: nothing acknowledged is lost or lies elsewhere, an offset
//! names the same message for ever, committed offsets do not go back, every key is in its order, and the consumers got it all.

mod audit;
mod consume;
mod ledger;
mod produce;
mod servers;

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tokio::time::Instant;

use audit::Auditor;
use consume::Consumers;
use ledger::Ledger;
use servers::Servers;

/// The topic of everything.
const TOPIC: &str = "crash";
const QUEUES: usize = 8;
/// The group of the consumers under test.
const GROUP: &str = "crash-consumers";

/// The kill comes at a moment between these, counted from the first acknowledgement of the round.
const KILL_MS: std::ops::RangeInclusive<u64> = 50..=2000;

/// Within this the consumers have to have got everything that the log holds.
const DRAIN_WITHIN: Duration = Duration::from_secs(120);

#[derive(Parser)]
#[command(
    about = "Kills name server and broker under SYNC_FLUSH load and looks whether they kept their word"
)]
struct Arguments {
    /// Directory of the servers, made if it is not there
    directory: PathBuf,
    /// Kills
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// What every chance comes from; the same seed kills at the same moments
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Every so many rounds all rounds before are read again, and the consumers have to have got everything
    #[arg(long, default_value_t = 25)]
    whole_every: u32,
    /// Producers, each with eight keys that have one message under way at a time
    #[arg(long, default_value_t = 8)]
    producers: u16,
    /// Members of the consumer group
    #[arg(long, default_value_t = 4)]
    consumers: usize,
    /// Another line of broker.conf, `key=value`
    #[arg(long = "set")]
    settings: Vec<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("stopped: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

async fn run(arguments: &Arguments) -> Result<bool, Box<dyn Error + Send + Sync>> {
    let mut chance = fastrand::Rng::with_seed(arguments.seed);
    let servers = Servers::new(&arguments.directory, &arguments.settings);
    servers.up()?;
    let address = servers.addresses()?;
    audit::create_topic(&address).await?;
    let ledger = Arc::new(Ledger::new(
        QUEUES,
        &arguments.directory.join("acknowledged"),
    )?);
    let mut auditor = Auditor::new(address.clone(), Arc::clone(&ledger));
    let mut consumers = Consumers::start(&address, arguments.consumers, &ledger).await?;
    let (mut passed, mut failed) = (0, 0);
    for round in 1..=arguments.rounds {
        let began = Instant::now();
        let kill_after = Duration::from_millis(chance.u64(KILL_MS));
        let load = produce::start(&address, arguments.producers, &ledger).await?;
        ledger.wait_first_of_round().await?;
        let watch = auditor.watch_committed();
        tokio::time::sleep(kill_after).await;
        let killed_at = Instant::now();
        servers.kill()?;
        load.end().await;
        let durable = watch.end(killed_at).await;
        let back = Instant::now();
        servers.up()?;
        let up_ms = back.elapsed().as_millis();
        // Consumers as well end without a word now and then.
        if chance.u8(..5) == 0 {
            consumers.crash();
            consumers = Consumers::start(&address, arguments.consumers, &ledger).await?;
        }
        let whole = round % arguments.whole_every == 0 || round == arguments.rounds;
        auditor.look(whole, &durable).await?;
        if whole {
            ledger.wait_all_received(DRAIN_WITHIN).await;
        }
        let summary = ledger.end_round();
        say(&format!(
            "round {round}: killed after {} ms, up again after {up_ms} ms, {summary}, {} ms",
            kill_after.as_millis(),
            began.elapsed().as_millis()
        ));
        match summary.is_sound() {
            true => passed += 1,
            false => failed += 1,
        }
    }
    consumers.shutdown().await;
    servers.stop()?;
    servers.up()?;
    auditor.look(true, &[]).await?;
    let summary = ledger.end_round();
    say(&format!("after an orderly stop: {summary}"));
    match summary.is_sound() {
        true => passed += 1,
        false => failed += 1,
    }
    servers.stop()?;
    say(&ledger.totals());
    say(&format!("{passed} passed, {failed} failed"));
    Ok(failed == 0)
}
