//! Calls to servers by address: one connection per address, opened when first needed, opened again after it broke.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agena_protocol::command::Command;
use agena_protocol::frame::Frame;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::connection::Connection;
use crate::connection_task::ConnectionTask;
use crate::error::CallError;
use crate::limits::{Limits, Share};
use crate::reply::Replies;
use crate::server::Service;

/// What a client does with what its servers ask and with the news of its connections. Runs on the connection's task
/// and so must not block.
pub trait RequestHandler: Send + Sync + 'static {
    /// A request from the server (codes 39, 40, 220, 221, 307, 309, 326); its answer, if there is one now. A later
    /// answer goes through [`Connection::send`].
    fn request(&self, connection: &Arc<Connection>, request: Command) -> Option<Command>;

    /// A connection to `address` was opened.
    fn connected(&self, address: &str) {
        let _ = address;
    }

    /// The connection to `address` ended.
    fn closed(&self, address: &str) {
        let _ = address;
    }
}

/// For clients that no server asks anything: requests stay unanswered, as unknown ones do in the original.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoRequests;

impl RequestHandler for NoRequests {
    fn request(&self, _connection: &Arc<Connection>, _request: Command) -> Option<Command> {
        None
    }
}

/// How a client connects.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// How long an attempt to connect may take, name resolution included.
    pub connect_timeout: Duration,
    /// A connection on which nothing was read or written for so long is closed.
    pub idle_timeout: Duration,
    /// The pause after a failed attempt, during which calls fail at once; doubles with each failure in a row.
    pub back_off_min: Duration,
    /// The longest such pause.
    pub back_off_max: Duration,
    /// Bytes that may wait to be written to one server, twice over; see [`crate::limits`].
    pub in_flight_bytes_per_connection: usize,
    /// The same for all servers together.
    pub in_flight_bytes_total: usize,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            idle_timeout: Duration::from_secs(120),
            back_off_min: Duration::from_millis(50),
            back_off_max: Duration::from_secs(1),
            in_flight_bytes_per_connection: 64 * 1024 * 1024,
            in_flight_bytes_total: 256 * 1024 * 1024,
        }
    }
}

/// Connections to any number of servers.
pub struct Client {
    config: ClientConfig,
    handler: Arc<dyn RequestHandler>,
    limits: Arc<Limits>,
    peers: Mutex<HashMap<String, Arc<Peer>>>,
    stopped: AtomicBool,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("config", &self.config)
            .field("peers", &self.peers.lock().keys())
            .finish_non_exhaustive()
    }
}

/// One address.
#[derive(Default)]
struct Peer {
    /// The connection, open or not. Read by every call, written by whoever connects.
    current: Mutex<Option<Opened>>,
    /// Held while connecting, so that one attempt serves all who wait.
    attempts: tokio::sync::Mutex<Attempts>,
}

struct Opened {
    connection: Arc<Connection>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Attempts {
    failures: u32,
    last_failure: String,
    not_before: Option<Instant>,
}

/// Addresses that are remembered although no connection to them is open.
const PEERS_MAX: usize = 4096;

impl Client {
    /// A client without connections.
    #[must_use]
    pub fn new(config: ClientConfig, requests: Arc<dyn RequestHandler>) -> Self {
        let limits = Limits::new(
            config.in_flight_bytes_per_connection,
            config.in_flight_bytes_total,
        );
        Self {
            config,
            handler: requests,
            limits,
            peers: Mutex::new(HashMap::new()),
            stopped: AtomicBool::new(false),
        }
    }

    /// Sends a request and waits for its answer; `timeout` covers connecting as well.
    ///
    /// # Errors
    /// [`CallError`]; an answer with an error code is not one.
    pub async fn call(
        &self,
        address: &str,
        command: Command,
        timeout: Duration,
    ) -> Result<Command, CallError> {
        let started = Instant::now();
        let connection = self.connection_within(address, timeout).await?;
        let left = timeout.saturating_sub(started.elapsed());
        connection.call(command, left).await
    }

    /// Sends a request that is not answered.
    ///
    /// # Errors
    /// [`CallError`] when nothing was queued; whether it arrives is not known.
    pub async fn one_way(&self, address: &str, command: Command) -> Result<(), CallError> {
        let connection = self.connection(address).await?;
        Ok(connection.one_way(&command)?)
    }

    /// The open connection to `address`, opened now if there is none.
    ///
    /// # Errors
    /// [`CallError::Connect`].
    pub async fn connection(&self, address: &str) -> Result<Arc<Connection>, CallError> {
        self.connection_within(address, self.config.connect_timeout)
            .await
    }

    async fn connection_within(
        &self,
        address: &str,
        timeout: Duration,
    ) -> Result<Arc<Connection>, CallError> {
        let peer = self.peer(address)?;
        if let Some(connection) = peer.open_connection() {
            return Ok(connection);
        }
        let limit = timeout.min(self.config.connect_timeout);
        match tokio::time::timeout(limit, self.connect(address, &peer)).await {
            Ok(result) => result,
            Err(_) => {
                // Whoever held the attempt was cut off before it could count its failure.
                if let Ok(mut attempts) = peer.attempts.try_lock() {
                    attempts.failed(&self.config, format!("timed out after {limit:?}"));
                }
                Err(connect_error(address, format!("timed out after {limit:?}")))
            }
        }
    }

    fn peer(&self, address: &str) -> Result<Arc<Peer>, CallError> {
        if self.stopped.load(Ordering::Acquire) {
            return Err(connect_error(
                address,
                "the client was shut down".to_owned(),
            ));
        }
        let mut peers = self.peers.lock();
        if let Some(peer) = peers.get(address) {
            return Ok(peer.clone());
        }
        if peers.len() >= PEERS_MAX {
            peers.retain(|_, peer| peer.open_connection().is_some());
        }
        Ok(peers.entry(address.to_owned()).or_default().clone())
    }

    async fn connect(&self, address: &str, peer: &Peer) -> Result<Arc<Connection>, CallError> {
        let mut attempts = peer.attempts.lock().await;
        if let Some(connection) = peer.open_connection() {
            return Ok(connection);
        }
        if attempts.not_before.is_some_and(|at| Instant::now() < at) {
            return Err(connect_error(address, attempts.last_failure.clone()));
        }
        // Tries every address that the name stands for, in the resolver's order.
        match TcpStream::connect(address).await {
            Ok(stream) => {
                *attempts = Attempts::default();
                self.adopt(address, peer, stream)
                    .map_err(|error| connect_error(address, error.to_string()))
            }
            Err(error) => {
                attempts.failed(&self.config, error.to_string());
                Err(connect_error(address, error.to_string()))
            }
        }
    }

    fn adopt(
        &self,
        address: &str,
        peer: &Peer,
        stream: TcpStream,
    ) -> std::io::Result<Arc<Connection>> {
        let share = Share::new(self.limits.clone());
        let (connection, reader) = Connection::new(stream, share)?;
        let service = Arc::new(Asked {
            address: address.to_owned(),
            handler: self.handler.clone(),
        });
        let task = ConnectionTask::opened(
            reader,
            connection.clone(),
            service,
            self.config.idle_timeout,
        );
        let name = address.to_owned();
        let task = tokio::spawn(async move {
            let ended = task.run().await;
            if ended.is_misbehaviour() {
                tracing::warn!(address = %name, reason = %ended, "connection closed");
            } else {
                tracing::debug!(address = %name, reason = %ended, "connection closed");
            }
        });
        *peer.current.lock() = Some(Opened {
            connection: connection.clone(),
            task,
        });
        Ok(connection)
    }

    /// Closes the connection to `address`, if there is one; the next call opens another.
    pub fn close_connection(&self, address: &str) {
        let peer = self.peers.lock().get(address).cloned();
        if let Some(connection) = peer.and_then(|peer| peer.open_connection()) {
            connection.close("closed by this client");
        }
    }

    /// Closes every connection after what is queued could be written, and ends every waiting call. Later calls fail.
    pub async fn shutdown(&self) {
        self.stopped.store(true, Ordering::Release);
        let peers: Vec<_> = self.peers.lock().drain().map(|(_, peer)| peer).collect();
        for peer in peers {
            // An attempt that runs now is waited for, as its connection must be closed too.
            let _attempts = peer.attempts.lock().await;
            let opened = peer.current.lock().take();
            if let Some(opened) = opened {
                opened.connection.close("the client stops");
                let _ = opened.task.await;
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        for peer in self.peers.lock().values() {
            if let Some(connection) = peer.open_connection() {
                connection.close("the client was dropped");
            }
        }
    }
}

impl Peer {
    fn open_connection(&self) -> Option<Arc<Connection>> {
        let current = self.current.lock();
        let connection = &current.as_ref()?.connection;
        connection.is_open().then(|| connection.clone())
    }
}

impl Attempts {
    fn failed(&mut self, config: &ClientConfig, reason: String) {
        let doubled = config
            .back_off_min
            .saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        self.last_failure = reason;
        self.not_before = Some(Instant::now() + doubled.min(config.back_off_max));
    }
}

fn connect_error(address: &str, reason: String) -> CallError {
    CallError::Connect {
        address: address.to_owned(),
        reason,
    }
}

/// Gives the requests of a server to the client's handler.
struct Asked {
    address: String,
    handler: Arc<dyn RequestHandler>,
}

impl Service for Asked {
    fn opened(&self, _connection: &Arc<Connection>) {
        self.handler.connected(&self.address);
    }

    fn requests(&self, connection: &Arc<Connection>, frames: &[Frame<'_>], replies: &mut Replies) {
        for frame in frames {
            if let Some(answer) = self.handler.request(connection, frame.to_command()) {
                replies.push_command(frame, answer);
            }
        }
    }

    fn closed(&self, _connection: &Arc<Connection>) {
        self.handler.closed(&self.address);
    }
}
