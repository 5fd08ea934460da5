//! `agena`: a name server and a broker in one process, ready at once; and every other program of the project as a
//! sub-command.
//!
//! Nothing is configured that has a sensible default: both listen on the loopback, everything is kept below one
//! directory. What is set below is what makes one process of the two; the roles themselves are in their crates.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use agena_broker::config::{BrokerConfig, ConfigError, SemicolonList};
use agena_broker::{Broker, StopSignal};
use agena_namesrv::{NameServer, NameServerConfig};
use clap::Parser;
use tracing_subscriber::EnvFilter;

/// Name server and broker in one process.
#[derive(Debug, Parser)]
#[command(
    name = "agena",
    version,
    after_help = "Sub-commands, each with its own --help:\n  \
        agena admin COMMAND ...    mqadmin: topics, groups, messages, lag\n  \
        agena namesrv ...          mqnamesrv: the name server alone\n  \
        agena broker ...           mqbroker: the broker alone"
)]
struct Arguments {
    /// Where everything is kept; made when it is not there. A broker.conf in it is read, if there is one
    #[arg(long, value_name = "DIR", default_value = "agena-data")]
    data: PathBuf,

    /// The address that both listen on and that clients are told; another machine needs one that it can reach
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    listen: IpAddr,

    /// The name server's port
    #[arg(long, value_name = "PORT", default_value_t = 9876)]
    namesrv_port: u16,

    /// The broker's port; its fast port is two below
    #[arg(long, value_name = "PORT", default_value_t = 10911)]
    broker_port: u16,

    /// A line of broker.conf, such as flushDiskType=SYNC_FLUSH; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

/// Exit code of a command line or a setting that is wrong.
const EXIT_USAGE: u8 = 2;

/// Exit code of a start or a stop that failed.
const EXIT_FAILED: u8 = 1;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_else(|| OsString::from("agena"));
    let mut arguments = arguments.peekable();
    match arguments.peek().and_then(|first| first.to_str()) {
        Some("admin") => agena_admin::run(arguments.skip(1)),
        Some("namesrv") => agena_namesrv::run(arguments.skip(1)),
        Some("broker") => agena_broker::run(arguments.skip(1)),
        _ => match Arguments::try_parse_from(std::iter::once(program).chain(arguments)) {
            Ok(arguments) => run(&arguments),
            Err(error) => {
                let _ = error.print();
                ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(EXIT_USAGE))
            }
        },
    }
}

fn run(arguments: &Arguments) -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let config = match broker_config(arguments) {
        Ok(config) => config,
        Err(error) => return fail(&error, EXIT_USAGE),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(serve(arguments, config));
            // An opening that was given up still runs on a thread of its own. It ends with the process.
            runtime.shutdown_background();
            code
        }
        Err(error) => fail(&error, EXIT_FAILED),
    }
}

async fn serve(arguments: &Arguments, config: BrokerConfig) -> ExitCode {
    let mut stop = match StopSignal::take() {
        Ok(stop) => stop,
        Err(error) => return fail(&error, EXIT_FAILED),
    };
    let name_server = match NameServer::start(name_server_config(arguments)).await {
        Ok(name_server) => name_server,
        Err(error) => return fail(&error, EXIT_FAILED),
    };
    let broker = match stop.unless_told(Broker::start(config)).await {
        Some(Ok(broker)) => broker,
        Some(Err(error)) => {
            name_server.shutdown().await;
            return fail(&error, EXIT_FAILED);
        }
        None => {
            name_server.shutdown().await;
            return ExitCode::SUCCESS;
        }
    };
    welcome(arguments);
    stop.arrived().await;
    // The broker first: it takes its registration back, and clients learn of it.
    let closed = broker.shutdown().await;
    name_server.shutdown().await;
    match closed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, EXIT_FAILED),
    }
}

fn name_server_config(arguments: &Arguments) -> NameServerConfig {
    let mut config = NameServerConfig::default();
    let folder = arguments.data.join("namesrv");
    config.bind_address = arguments.listen;
    config.listen_port = arguments.namesrv_port;
    config.kv_config_path = folder.join("kvConfig.json");
    config.config_store_path = folder.join("namesrv.properties");
    config
}

/// Defaults of one machine, over them the data directory's broker.conf, over that the command line.
fn broker_config(arguments: &Arguments) -> Result<BrokerConfig, ConfigError> {
    let mut config = BrokerConfig::default();
    "broker-a".clone_into(&mut config.broker_name);
    let file = arguments.data.join("broker.conf");
    if file.exists() {
        config.read_file(&file)?;
    }
    config.bind_address = arguments.listen.to_string();
    config.broker_ip1 = arguments.listen.to_string();
    config.listen_port = arguments.broker_port;
    config.namesrv_addr = SemicolonList(vec![host_and_port(
        arguments.listen,
        arguments.namesrv_port,
    )]);
    config.store_path_root_dir = path_text(&arguments.data.join("store"))?;
    for line in &arguments.settings {
        config.set_line("--set", line)?;
    }
    config.resolve()?;
    Ok(config)
}

fn path_text(path: &Path) -> Result<String, ConfigError> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        ConfigError::Unusable(format!("{}: the path has to be UTF-8", path.display()))
    })
}

fn host_and_port(host: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(host, port).to_string()
}

/// Addresses and first steps, to stdout. One that nobody reads is no reason to stop.
fn welcome(arguments: &Arguments) {
    let name_server = host_and_port(arguments.listen, arguments.namesrv_port);
    let broker = host_and_port(arguments.listen, arguments.broker_port);
    let _ = writeln!(
        std::io::stdout(),
        "agena {version} is ready.\n\
        \n  name server  {name_server}\n  broker       {broker}\n  data         {data}\n\
        \nFirst steps, in another terminal:\n\
        \n  agena admin updateTopic -n {name_server} -c DefaultCluster -t hello -r 8 -w 8\
        \n  agena admin sendMessage -n {name_server} -t hello -p \"hello, world\"\
        \n  agena admin topicStatus -n {name_server} -t hello\n\
        \nProgrammes take {name_server} as their name server. Ctrl-C stops in order.",
        version = env!("CARGO_PKG_VERSION"),
        data = arguments.data.display(),
    );
}

/// One line to the operator.
fn fail(error: &(impl std::fmt::Display + ?Sized), code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "agena: {error}");
    ExitCode::from(code)
}
