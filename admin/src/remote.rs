//! The way to the servers: asks name servers and brokers, and turns what can go wrong into one line.
//!
//! Commands are straight-line code that waits for each answer; only this file knows of the runtime underneath.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use agena_protocol::bodies::route::{BrokerData, ClusterInfo, TopicRouteData};
use agena_protocol::command::Command;
use agena_protocol::fastjson;
use agena_protocol::request_code::RequestCode;
use agena_remoting::client::{Client, ClientConfig, NoRequests};
use agena_remoting::error::CallError;
use serde::de::DeserializeOwned;
use tokio::runtime::{Builder, Runtime};

use crate::failure::Failure;

/// How long an ordinary question may take; the original's.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);

/// How many questions are under way at once where many brokers or groups are asked.
const AT_ONCE: usize = 16;

/// Connections to servers, made when first needed.
pub(crate) struct Remote {
    runtime: Runtime,
    client: Client,
    name_servers: Vec<String>,
}

/// A question for one server.
pub(crate) struct Question {
    /// What is being done, for the line that says it failed.
    pub(crate) step: String,
    pub(crate) address: String,
    pub(crate) request: Command,
}

impl Remote {
    /// Nothing is connected yet. `name_servers` is a list separated by `;`.
    pub(crate) fn new(name_servers: &str) -> Result<Self, Failure> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let client = {
            let _inside = runtime.enter();
            Client::new(ClientConfig::default(), Arc::new(NoRequests))
        };
        let name_servers = name_servers
            .split([';', ','])
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
        Ok(Self {
            runtime,
            client,
            name_servers,
        })
    }

    /// The name servers in the order given.
    pub(crate) fn name_servers(&self) -> &[String] {
        &self.name_servers
    }

    /// Asks one server and waits for success.
    pub(crate) fn ask(
        &self,
        step: &str,
        address: &str,
        request: Command,
    ) -> Result<Command, Failure> {
        self.ask_within(step, address, request, TIMEOUT)
    }

    /// As [`Self::ask`], with another patience.
    pub(crate) fn ask_within(
        &self,
        step: &str,
        address: &str,
        request: Command,
        timeout: Duration,
    ) -> Result<Command, Failure> {
        let answer = self
            .runtime
            .block_on(self.client.call(address, request, timeout));
        checked(step, address, answer)
    }

    /// Asks one server and gives its answer whatever its code.
    pub(crate) fn ask_any(
        &self,
        step: &str,
        address: &str,
        request: Command,
        timeout: Duration,
    ) -> Result<Command, Failure> {
        let answer = self
            .runtime
            .block_on(self.client.call(address, request, timeout));
        answer.map_err(|error| unreachable(step, address, &error))
    }

    /// Asks many at once; answers stand in the order of the questions.
    pub(crate) fn ask_all(&self, questions: Vec<Question>) -> Vec<Result<Command, Failure>> {
        self.runtime.block_on(async {
            let mut answers = Vec::with_capacity(questions.len());
            let mut questions = questions.into_iter();
            loop {
                let group: Vec<Question> = questions.by_ref().take(AT_ONCE).collect();
                if group.is_empty() {
                    return answers;
                }
                answers.extend(self.ask_group(group).await);
            }
        })
    }

    async fn ask_group(&self, group: Vec<Question>) -> Vec<Result<Command, Failure>> {
        let mut pending: Vec<_> = group
            .into_iter()
            .map(|question| {
                Box::pin(async move {
                    let answer = self
                        .client
                        .call(&question.address, question.request, TIMEOUT)
                        .await;
                    checked(&question.step, &question.address, answer)
                })
            })
            .collect();
        let mut answers: Vec<Option<Result<Command, Failure>>> =
            pending.iter().map(|_| None).collect();
        std::future::poll_fn(move |context| {
            for (answer, question) in answers.iter_mut().zip(&mut pending) {
                if answer.is_none()
                    && let std::task::Poll::Ready(done) = question.as_mut().poll(context)
                {
                    *answer = Some(done);
                }
            }
            if answers.iter().all(Option::is_some) {
                std::task::Poll::Ready(answers.iter_mut().filter_map(Option::take).collect())
            } else {
                std::task::Poll::Pending
            }
        })
        .await
    }

    /// Asks the name servers one after the other until one answers; a refusal is an answer.
    pub(crate) fn ask_name_server(
        &self,
        step: &str,
        request: &Command,
    ) -> Result<(String, Command), Failure> {
        let mut last = Failure::Input("no name server is given: use -n or NAMESRV_ADDR".to_owned());
        for address in &self.name_servers {
            match self.ask(step, address, request.clone()) {
                Ok(answer) => return Ok((address.clone(), answer)),
                Err(failure @ Failure::Unreachable { .. }) => last = failure,
                Err(failure) => return Err(failure),
            }
        }
        Err(last)
    }

    /// Asks a name server for something with a JSON body.
    pub(crate) fn ask_name_server_for<T: DeserializeOwned>(
        &self,
        step: &str,
        request: &Command,
    ) -> Result<T, Failure> {
        let (address, answer) = self.ask_name_server(step, request)?;
        body(step, &address, &answer)
    }

    /// Asks one server for something with a JSON body.
    pub(crate) fn ask_for<T: DeserializeOwned>(
        &self,
        step: &str,
        address: &str,
        request: Command,
    ) -> Result<T, Failure> {
        body(step, address, &self.ask(step, address, request)?)
    }

    /// Clusters and brokers as the name server knows them.
    pub(crate) fn clusters(&self) -> Result<ClusterInfo, Failure> {
        self.ask_name_server_for(
            "asking for the clusters",
            &Command::request(RequestCode::GetBrokerClusterInfo),
        )
    }

    /// A topic's brokers and queues.
    pub(crate) fn route(&self, topic: &str) -> Result<TopicRouteData, Failure> {
        let request = Command::request(RequestCode::GetRouteinfoByTopic).with_ext("topic", topic);
        self.ask_name_server_for(&format!("asking for the route of topic {topic}"), &request)
    }

    /// The addresses of a cluster's masters, by broker name.
    pub(crate) fn masters(&self, cluster: &str) -> Result<Vec<String>, Failure> {
        let brokers = self.brokers_of(cluster)?;
        Ok(brokers
            .iter()
            .filter_map(|broker| broker.broker_addrs.get(&0).cloned())
            .collect())
    }

    /// The addresses of a cluster's masters and slaves.
    pub(crate) fn members(&self, cluster: &str) -> Result<Vec<String>, Failure> {
        let brokers = self.brokers_of(cluster)?;
        Ok(brokers
            .iter()
            .flat_map(|broker| broker.broker_addrs.values().cloned())
            .collect())
    }

    /// A cluster's brokers by name.
    pub(crate) fn brokers_of(&self, cluster: &str) -> Result<Vec<BrokerData>, Failure> {
        let clusters = self.clusters()?;
        let Some(names) = clusters.cluster_addr_table.get(cluster) else {
            let known: Vec<&str> = clusters
                .cluster_addr_table
                .keys()
                .map(String::as_str)
                .collect();
            return Err(Failure::Absent(format!(
                "the name server knows no cluster {cluster}; it knows: {}",
                if known.is_empty() {
                    "none".to_owned()
                } else {
                    known.join(", ")
                }
            )));
        };
        let names: BTreeSet<&String> = names.iter().collect();
        Ok(names
            .into_iter()
            .filter_map(|name| clusters.broker_addr_table.get(name).cloned())
            .collect())
    }

    /// The address of the broker of this name, its master if that is there.
    pub(crate) fn broker_address(&self, name: &str) -> Result<String, Failure> {
        let clusters = self.clusters()?;
        clusters
            .broker_addr_table
            .get(name)
            .and_then(reader_address)
            .ok_or_else(|| {
                let known: Vec<&str> = clusters
                    .broker_addr_table
                    .keys()
                    .map(String::as_str)
                    .collect();
                Failure::Absent(format!(
                    "the name server knows no broker {name}; it knows: {}",
                    known.join(", ")
                ))
            })
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.runtime.block_on(self.client.shutdown());
    }
}

/// The address to read from: the master's, else that of the slave with the smallest id.
pub(crate) fn reader_address(broker: &BrokerData) -> Option<String> {
    broker.broker_addrs.values().next().cloned()
}

/// Reads the JSON body of an answer.
pub(crate) fn body<T: DeserializeOwned>(
    step: &str,
    address: &str,
    answer: &Command,
) -> Result<T, Failure> {
    fastjson::from_slice(&answer.body).map_err(|error| Failure::Garbled {
        step: step.to_owned(),
        address: address.to_owned(),
        cause: error.to_string(),
    })
}

fn checked(
    step: &str,
    address: &str,
    answer: Result<Command, CallError>,
) -> Result<Command, Failure> {
    let answer = answer.map_err(|error| unreachable(step, address, &error))?;
    if answer.is_success() {
        Ok(answer)
    } else {
        Err(refused(step, address, &answer))
    }
}

/// The failure that an answer with an error code stands for.
pub(crate) fn refused(step: &str, address: &str, answer: &Command) -> Failure {
    Failure::Refused {
        step: step.to_owned(),
        address: address.to_owned(),
        code: answer.code,
        remark: answer.remark.clone().unwrap_or_default(),
    }
}

fn unreachable(step: &str, address: &str, error: &CallError) -> Failure {
    Failure::Unreachable {
        step: step.to_owned(),
        address: address.to_owned(),
        cause: error.to_string(),
    }
}
