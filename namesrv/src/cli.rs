//! The command line of `mqnamesrv`: the original's flags, its boot line, an orderly stop on SIGTERM and SIGINT.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::config::NameServerConfig;
use crate::name_server::NameServer;

/// The name server: tells clients where topics are.
#[derive(Debug, Parser)]
#[command(name = "mqnamesrv", version)]
struct Arguments {
    /// Name server config properties file
    #[arg(short = 'c', long = "configFile", value_name = "FILE")]
    config_file: Option<PathBuf>,

    /// Print all config items and exit
    #[arg(short = 'p', long = "printConfigItem")]
    print_config_item: bool,

    /// Name server address list, eg: '192.168.0.1:9876;192.168.0.2:9876'. Accepted for compatibility: name servers do
    /// not know of each other
    #[arg(short = 'n', long = "namesrvAddr", value_name = "ADDRESSES")]
    namesrv_addr: Option<String>,
}

/// Exit code of a command line or a configuration that is wrong.
const EXIT_USAGE: u8 = 2;

/// Exit code of a start that failed.
const EXIT_START: u8 = 1;

/// Runs a name server until a signal stops it. `arguments` are without the program's name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let program = std::iter::once(OsString::from("mqnamesrv"));
    let arguments = match Arguments::try_parse_from(program.chain(arguments)) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(EXIT_USAGE));
        }
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // Somebody who embeds this may have set up another one, which then stays.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .try_init();
    let mut config = NameServerConfig::default();
    if let Some(file) = &arguments.config_file {
        if let Err(error) = config.read_file(file) {
            return fail(&error, EXIT_USAGE);
        }
        say(&format!(
            "load config properties file OK, {}",
            file.display()
        ));
    }
    if arguments.print_config_item {
        say(config.text().trim_end());
        return ExitCode::SUCCESS;
    }
    if arguments.namesrv_addr.is_some() {
        tracing::info!("-n is accepted and not used: name servers do not know of each other");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, EXIT_START),
    };
    runtime.block_on(serve(config))
}

async fn serve(config: NameServerConfig) -> ExitCode {
    // Taken before the boot line: whoever waits for that line may send a signal at once.
    let (mut terminate, mut interrupt) = match (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(error), _) | (_, Err(error)) => return fail(&error, EXIT_START),
    };
    let server = match NameServer::start(config).await {
        Ok(server) => server,
        Err(error) => return fail(&error, EXIT_START),
    };
    say(&format!(
        "The Name Server boot success. serializeType=JSON, address {}",
        server.local_addr()
    ));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("the name server stops");
    server.shutdown().await;
    ExitCode::SUCCESS
}

/// To stdout, where scripts wait for it. One that nobody reads any more is no reason to stop.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn fail(error: &dyn std::error::Error, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "mqnamesrv: {error}");
    ExitCode::from(code)
}
