//! This broker among the name servers: full registration at the start and every `registerNameServerPeriod`, at once what
//! changed, and a farewell at the stop.
//!
//! Each name server has a task of its own, so one that is down delays nobody; it is tried again soon, and told everything
//! when it is back. Apache: `BrokerOuterAPI.registerBrokerAll` and its schedules; source: spec/semantics.md §2.1.

mod message;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use agena_protocol::bodies::topic_config::TopicConfig;
use agena_protocol::command::Command;
use agena_remoting::client::{Client, ClientConfig, RequestHandler};
use agena_remoting::connection::Connection;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::broker::Broker;

/// Bounds of `registerNameServerPeriod`.
const PERIOD_MIN: Duration = Duration::from_secs(10);
const PERIOD_MAX: Duration = Duration::from_secs(60);

/// First and longest pause before a name server that did not take a registration is tried again.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// How long a farewell may take; a name server that is not told finds out by the closed connection.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// Changes that are remembered for those name servers that have not heard of them. Who is further behind is told all.
const CHANGES_MAX: usize = 1000;

/// Tells the name servers about this broker.
pub(crate) struct Registration {
    client: Client,
    state: Arc<State>,
    tasks: Mutex<HashMap<String, JoinHandle<()>>>,
    runtime: tokio::runtime::Handle,
}

/// What the tasks, and those who wait for them, share.
#[derive(Default)]
struct State {
    progress: Mutex<Progress>,
    /// Told at every change and poke: tasks look at what they have to do.
    work: Notify,
    /// Told at every end of an attempt.
    attempted: Notify,
}

#[derive(Default)]
struct Progress {
    /// Changes so far.
    number: u64,
    /// The last changes with their numbers, oldest first.
    changes: VecDeque<(u64, Arc<TopicConfig>)>,
    /// Below this number changes are forgotten.
    forgotten: u64,
    servers: BTreeMap<String, Server>,
}

/// What one name server knows.
#[derive(Debug, Default, Clone, Copy)]
struct Server {
    /// It has been told all changes below this number; `None` when it must be told everything.
    told: Option<u64>,
    /// It was tried since it was named, or since the last success.
    attempted: bool,
    reachable: bool,
}

/// What to tell a name server next.
enum Due {
    Everything,
    Changes(Vec<Arc<TopicConfig>>),
    Nothing,
}

impl State {
    fn due(&self, address: &str) -> (Due, u64) {
        let progress = self.progress.lock();
        let told = progress.servers.get(address).and_then(|server| server.told);
        let due = match told {
            None => Due::Everything,
            Some(told) if told >= progress.number => Due::Nothing,
            Some(told) if told < progress.forgotten => Due::Everything,
            Some(told) => {
                let news = progress
                    .changes
                    .iter()
                    .filter(|(number, _)| *number >= told);
                let latest: BTreeMap<&str, &Arc<TopicConfig>> = news
                    .map(|(_, topic)| (topic.topic_name.as_str(), topic))
                    .collect();
                Due::Changes(latest.into_values().cloned().collect())
            }
        };
        (due, progress.number)
    }

    /// Notes how an attempt ended that told everything below `number`; true if that differs from the last attempt.
    fn attempted(&self, address: &str, number: u64, success: bool) -> bool {
        let mut progress = self.progress.lock();
        let server = progress.servers.entry(address.to_owned()).or_default();
        let is_news = !server.attempted || server.reachable != success;
        *server = Server {
            told: success.then_some(number),
            attempted: true,
            reachable: success,
        };
        drop(progress);
        self.attempted.notify_waiters();
        is_news
    }

    /// The name server has lost what it knew.
    fn forget(&self, address: &str) {
        if let Some(server) = self.progress.lock().servers.get_mut(address) {
            server.told = None;
        }
        self.work.notify_waiters();
    }

    /// Every name server that can be reached has been told all changes below `number`.
    fn is_settled(&self, number: u64) -> bool {
        let progress = self.progress.lock();
        progress.servers.values().all(|server| {
            let told = server.told.is_some_and(|told| told >= number);
            told || (server.attempted && !server.reachable)
        })
    }
}

/// Name servers ask brokers nothing that this version serves; a closed connection is news.
struct Watch(Arc<State>);

impl RequestHandler for Watch {
    fn request(&self, _connection: &Arc<Connection>, _request: Command) -> Option<Command> {
        None
    }

    fn closed(&self, address: &str) {
        self.0.forget(address);
    }
}

impl Registration {
    /// Knows no name server yet.
    #[must_use]
    pub(crate) fn new(runtime: tokio::runtime::Handle) -> Self {
        let state = Arc::new(State::default());
        let watch = Arc::new(Watch(state.clone()));
        Self {
            client: Client::new(ClientConfig::default(), watch),
            state,
            tasks: Mutex::default(),
            runtime,
        }
    }

    /// Registers with the name servers of the configuration from now on, and no more with others.
    pub(crate) fn follow(&self, broker: &Arc<Broker>) {
        let wanted = broker.config.get().namesrv_addr.0.clone();
        let mut tasks = self.tasks.lock();
        let gone: Vec<String> = tasks
            .keys()
            .filter(|address| !wanted.contains(address))
            .cloned()
            .collect();
        for address in gone {
            if let Some(task) = tasks.remove(&address) {
                task.abort();
                self.state.progress.lock().servers.remove(&address);
                self.client.close_connection(&address);
            }
        }
        for address in wanted {
            tasks.entry(address).or_insert_with_key(|address| {
                let mut progress = self.state.progress.lock();
                progress.servers.insert(address.clone(), Server::default());
                drop(progress);
                let kept = keep_registered(broker.clone(), address.clone());
                self.runtime.spawn(kept)
            });
        }
    }

    /// These topics were changed: name servers are told at once, without waiting for them.
    pub(crate) fn changed(&self, topics: &[Arc<TopicConfig>]) {
        let mut progress = self.state.progress.lock();
        for topic in topics {
            let number = progress.number;
            progress.changes.push_back((number, topic.clone()));
            progress.number += 1;
        }
        while progress.changes.len() > CHANGES_MAX {
            if let Some((number, _)) = progress.changes.pop_front() {
                progress.forgotten = number + 1;
            }
        }
        drop(progress);
        self.state.work.notify_waiters();
    }

    /// Something about the broker as a whole was changed: name servers are told everything at once.
    pub(crate) fn changed_everything(&self) {
        let mut progress = self.state.progress.lock();
        progress
            .servers
            .values_mut()
            .for_each(|server| server.told = None);
        drop(progress);
        self.state.work.notify_waiters();
    }

    /// Returns when every name server that can be reached knows all changes made so far, or after `timeout`.
    pub(crate) async fn settled(&self, timeout: Duration) {
        let number = self.state.progress.lock().number;
        let wait = async {
            loop {
                let attempted = self.state.attempted.notified();
                if self.state.is_settled(number) {
                    return;
                }
                attempted.await;
            }
        };
        // Who waits only wants to be polite: after the time-out the change reaches the name servers all the same.
        let _ = tokio::time::timeout(timeout, wait).await;
    }

    /// [`Registration::settled`] for threads that may block.
    pub(crate) fn wait_settled(&self, timeout: Duration) {
        self.runtime.block_on(self.settled(timeout));
    }

    /// Takes this broker out of all routes.
    pub(crate) async fn farewell(&self, broker: &Broker) {
        let tasks: Vec<_> = self.tasks.lock().drain().collect();
        let mut farewells = tokio::task::JoinSet::new();
        for (address, task) in tasks {
            task.abort();
            // Waits until the task has let go of the broker.
            let _ = task.await;
            let knows_us = self.state.progress.lock().servers.get(&address).copied();
            if !knows_us.is_some_and(|server| server.reachable) {
                continue;
            }
            let command = message::farewell(broker);
            let connection = self.client.connection(&address);
            if let Ok(Ok(connection)) = tokio::time::timeout(FAREWELL_TIMEOUT, connection).await {
                farewells.spawn(async move { connection.call(command, FAREWELL_TIMEOUT).await });
            }
        }
        while farewells.join_next().await.is_some() {}
        self.client.shutdown().await;
    }
}

/// Keeps one name server informed until the task is aborted.
async fn keep_registered(broker: Arc<Broker>, address: String) {
    let mut retry = RETRY_MIN;
    let mut next_full = tokio::time::Instant::now();
    loop {
        let state = &broker.registration.state;
        let work = state.work.notified();
        tokio::pin!(work);
        // Listen before looking, so that no change falls between the two.
        work.as_mut().enable();
        let (mut due, number) = state.due(&address);
        if tokio::time::Instant::now() >= next_full {
            due = Due::Everything;
        }
        let pause = match due {
            Due::Nothing => next_full.saturating_duration_since(tokio::time::Instant::now()),
            Due::Everything | Due::Changes(_) => {
                let is_full = matches!(due, Due::Everything);
                if attempt(&broker, &address, due, number).await {
                    retry = RETRY_MIN;
                    if is_full {
                        next_full = tokio::time::Instant::now() + period(&broker);
                    }
                    continue;
                }
                // A name server that restarted refuses changes until it has heard everything.
                if is_full {
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(RETRY_MAX);
                }
                continue;
            }
        };
        tokio::select! {
            () = &mut work => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn period(broker: &Broker) -> Duration {
    let configured = broker.config.get().register_name_server_period;
    configured.clamp(PERIOD_MIN, PERIOD_MAX)
}

/// One registration; true if the name server took it. Logs when the outcome differs from the last.
async fn attempt(broker: &Arc<Broker>, address: &str, due: Due, number: u64) -> bool {
    let registration = &broker.registration;
    let speaker = broker.clone();
    // Twenty thousand topics take a while to encode; the threads that serve connections have other things to do.
    let encoded = tokio::task::spawn_blocking(move || match due {
        Due::Everything => Some(message::everything(&speaker)),
        Due::Changes(topics) => Some(message::changes(&speaker, &topics)),
        Due::Nothing => None,
    });
    let command = match encoded.await {
        Ok(Some(command)) => command,
        Ok(None) => return true,
        Err(error) => {
            // The runtime ends, or encoding panicked, which the panic hook has reported.
            tracing::debug!(%error, "nothing to register");
            return registration.state.attempted(address, number, false);
        }
    };
    let timeout = broker.config.get().register_broker_timeout;
    let outcome = registration.client.call(address, command, timeout).await;
    let taken = match &outcome {
        Ok(answer) => answer.is_success(),
        Err(_) => false,
    };
    let is_news = registration.state.attempted(address, number, taken);
    match outcome {
        Ok(answer) if taken => {
            if is_news {
                let advertised = broker.identity.advertised;
                tracing::info!(name_server = address, %advertised, "registered");
            }
            message::learn(broker, &answer);
        }
        Ok(answer) if is_news => {
            let remark = answer.remark.as_deref().unwrap_or_default();
            tracing::warn!(
                name_server = address,
                code = answer.code,
                remark,
                "registration refused"
            );
        }
        Err(error) if is_news => {
            tracing::warn!(name_server = address, %error, "not registered; trying again");
        }
        Ok(_) | Err(_) => {}
    }
    taken
}
