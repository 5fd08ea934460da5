//! Tells brokers that the smallest id of their group changed (905), so that a slave knows when it acts for its master.

use std::sync::Arc;

use agena_protocol::command::Command;
use agena_protocol::headers::namesrv::NotifyMinBrokerIdChangeRequest;
use agena_protocol::request_code::RequestCode;
use agena_remoting::client::{Client, ClientConfig, NoRequests};

use crate::tables::MinIdChange;

/// Calls brokers at the address they registered, as the original does: the connection a broker registers on is read
/// by its client side, which does not know this request.
#[derive(Debug)]
pub(crate) struct Notifier {
    client: Arc<Client>,
}

impl Notifier {
    pub(crate) fn new() -> Self {
        let client = Client::new(ClientConfig::default(), Arc::new(NoRequests));
        Self {
            client: Arc::new(client),
        }
    }

    /// Sends without waiting for anybody. One that cannot be reached learns it when it next asks for its group.
    pub(crate) fn tell(&self, change: &MinIdChange) {
        let header = NotifyMinBrokerIdChangeRequest {
            min_broker_id: Some(change.min_id),
            broker_name: Some(&change.broker),
            min_broker_addr: Some(&change.min_address),
            offline_broker_addr: change.offline_address.as_deref(),
            ha_broker_addr: change.ha_address.as_deref(),
        };
        tracing::info!(?change, "smallest broker id changed");
        for address in change.recipients.clone() {
            let command =
                Command::request(RequestCode::NotifyMinBrokerIdChange).with_header(&header);
            let client = self.client.clone();
            tokio::spawn(async move {
                if let Err(error) = client.one_way(&address, command).await {
                    tracing::warn!(%error, "broker not told of its group's smallest id");
                }
            });
        }
    }

    pub(crate) async fn shutdown(&self) {
        self.client.shutdown().await;
    }
}
