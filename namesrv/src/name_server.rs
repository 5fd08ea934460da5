//! A name server's parts and their life: start, address, orderly stop.

use std::net::SocketAddr;
use std::sync::Arc;

use agena_protocol::clock::{Clock, SystemClock};
use agena_remoting::error::BindError;
use agena_remoting::server::{Server, ServerConfig};
use thiserror::Error;

use crate::config::{ConfigCell, NameServerConfig};
use crate::kv::{KeyValues, KvError};
use crate::liveness;
use crate::notify::Notifier;
use crate::requests::Requests;
use crate::routes::Routes;

/// Why a name server does not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// It cannot listen, for example because the port is in use.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Its file cannot be read.
    #[error(transparent)]
    Kv(#[from] KvError),
}

/// A running name server. Stop it with [`NameServer::shutdown`]; dropping it leaves its connections to end alone.
#[derive(Debug)]
pub struct NameServer {
    server: Server,
    requests: Arc<Requests>,
    evicting: tokio::task::JoinHandle<()>,
}

impl NameServer {
    /// Reads its file and begins to listen. Needs a tokio runtime, best one with several threads.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: NameServerConfig) -> Result<Self, StartError> {
        Self::start_with_clock(config, Arc::new(SystemClock::new())).await
    }

    /// The same on a clock that tests turn; pauses between looks for silent brokers stay the runtime's.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start_with_clock(
        config: NameServerConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let listening = ServerConfig {
            address: SocketAddr::new(config.bind_address, config.listen_port),
            idle_timeout: config.server_channel_max_idle_time.duration(),
            connections_max: config.connections_max,
            backlog: config.server_socket_backlog,
            ..ServerConfig::default()
        };
        let requests = Arc::new(Requests {
            kv: KeyValues::open(config.kv_config_path.clone())?,
            routes: Routes::new(clock.clone()),
            config: ConfigCell::new(config),
            notifier: Notifier::new(),
            started: clock.monotonic(),
            clock,
        });
        let server = Server::bind(listening, requests.clone()).await?;
        Ok(Self {
            server,
            evicting: tokio::spawn(liveness::evict_silent(requests.clone())),
            requests,
        })
    }

    /// Where it listens; the port is the real one.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// Stops: no new connections, no new requests, answers that are owed leave.
    pub async fn shutdown(self) {
        let grace = self.requests.config.get().shutdown_wait_time.duration();
        self.evicting.abort();
        self.server.shutdown(grace).await;
        self.requests.notifier.shutdown().await;
    }
}
