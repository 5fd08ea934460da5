//! `mqbroker`: its flags, which are the original's, and the life of the process.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use agena_store::medium::DiskMedium;
use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::broker::{RunningBroker, StartError, start};
use crate::config::{BrokerConfig, SemicolonList};
use crate::stop_signal::StopSignal;

/// Keeps messages and hands them to consumers; speaks RocketMQ's protocol and keeps its store format.
///
/// A broker that is found by clients needs a name server:
///
///   mqnamesrv &
///   mqbroker -n 127.0.0.1:9876
///
/// Without a configuration file it keeps its data in ~/store, listens on port 10911 (and 10909, the fast port), and
/// creates topics when they are first sent to. A configuration file has one key=value a line, with RocketMQ's keys:
///
///   brokerName=broker-a
///   storePathRootDir=/var/lib/agena
///   flushDiskType=SYNC_FLUSH
///
/// Stop it with SIGTERM or Ctrl-C: it leaves the routes, answers what is owed, and syncs. The log goes to standard
/// error; RUST_LOG chooses how much (RUST_LOG=debug).
#[derive(Debug, Parser)]
#[command(name = "mqbroker", version, verbatim_doc_comment)]
struct Flags {
    /// Configuration file (broker.conf). Changes made with `mqadmin updateBrokerConfig` are written back into it.
    #[arg(short, long = "configFile", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Name servers, host:port separated by `;`. Overrides the file.
    #[arg(
        short,
        long = "namesrvAddr",
        value_name = "HOST:PORT[;…]",
        env = "NAMESRV_ADDR"
    )]
    namesrv: Option<String>,
    /// Print every configuration key with its value, and exit.
    #[arg(short = 'p', long = "printConfigItem")]
    print: bool,
    /// Print the keys that operators change most, and exit.
    #[arg(short = 'm', long = "printImportantConfig")]
    print_important: bool,
}

/// What `-m` prints.
const IMPORTANT: [&str; 18] = [
    "brokerClusterName",
    "brokerName",
    "brokerId",
    "brokerIP1",
    "listenPort",
    "bindAddress",
    "namesrvAddr",
    "brokerRole",
    "brokerPermission",
    "storePathRootDir",
    "storePathCommitLog",
    "flushDiskType",
    "fileReservedTime",
    "deleteWhen",
    "diskMaxUsedSpaceRatio",
    "maxMessageSize",
    "autoCreateTopicEnable",
    "autoCreateSubscriptionGroup",
];

/// Runs `mqbroker` with these arguments (without the program's name) until it is told to stop.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let name = std::iter::once(OsString::from("mqbroker"));
    let flags = match Flags::try_parse_from(name.chain(arguments)) {
        Ok(flags) => flags,
        Err(error) => {
            // Writing to a closed terminal is nobody's loss.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // A process that runs several roles has a subscriber already.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
    match serve(&flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(flags: &Flags) -> Result<(), StartError> {
    let mut config = BrokerConfig::default();
    if let Some(path) = &flags.config {
        config.read_file(path)?;
    }
    if let Some(addresses) = &flags.namesrv {
        config.namesrv_addr = SemicolonList::of(addresses);
    }
    if flags.print || flags.print_important {
        config.resolve()?;
        print(&config, flags.print_important);
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("broker")
        .build()
        .map_err(|source| StartError::System {
            what: "no runtime",
            source,
        })?;
    let ended = runtime.block_on(live(config, flags.config.clone()));
    // An opening that was given up still runs on a thread of its own. It ends with the process.
    runtime.shutdown_background();
    ended
}

async fn live(config: BrokerConfig, file: Option<PathBuf>) -> Result<(), StartError> {
    let mut stop = StopSignal::take()?;
    let starting = start(config, file, Arc::new(DiskMedium));
    let Some(started) = stop.unless_told(starting).await else {
        return Ok(());
    };
    let running = started?;
    announce(&running);
    stop.arrived().await;
    tracing::info!("stopping");
    running.shutdown().await?;
    tracing::info!("stopped");
    Ok(())
}

fn print(config: &BrokerConfig, only_important: bool) {
    let mut out = std::io::stdout().lock();
    for (key, value) in config.entries() {
        if !only_important || IMPORTANT.contains(&key) {
            // `mqbroker -p | head` reads no further, and nothing is lost.
            let _ = writeln!(out, "{key}={value}");
        }
    }
}

/// The original's line, which scripts wait for. One that nobody reads is no reason to stop.
fn announce(running: &RunningBroker) {
    let identity = running.identity();
    let name_servers = running.name_servers();
    let suffix = if name_servers.is_empty() {
        String::new()
    } else {
        format!(" and name server is {name_servers}")
    };
    let _ = writeln!(
        std::io::stdout(),
        "The broker[{}, {}] boot success. serializeType=JSON{suffix}",
        identity.name,
        identity.advertised
    );
}
