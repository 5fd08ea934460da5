//! The consumer group under test: members that read in order and commit five times a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use agena_client::{Batch, ClientConfig, ClientError, ConsumeFrom, ConsumerSettings, PushConsumer};

use crate::ledger::Ledger;
use crate::servers::Addresses;
use crate::{GROUP, TOPIC};

/// All members.
pub(crate) struct Consumers(Vec<PushConsumer>);

/// Members are told apart for as long as this program runs.
static NEXT_MEMBER: AtomicU32 = AtomicU32::new(0);

impl Consumers {
    pub(crate) async fn start(
        addresses: &Addresses,
        members: usize,
        ledger: &Arc<Ledger>,
    ) -> Result<Self, ClientError> {
        let mut started = Vec::new();
        for _ in 0..members {
            let ledger = Arc::clone(ledger);
            let number = NEXT_MEMBER.fetch_add(1, Ordering::Relaxed);
            let settings = ConsumerSettings {
                consume_from: ConsumeFrom::First,
                concurrency: 2,
                batch_max: 32,
                save_interval: Duration::from_millis(200),
                ..ConsumerSettings::default()
            };
            let member = PushConsumer::builder(GROUP)
                .config(ClientConfig::new(&addresses.name_server))
                .settings(settings)
                .subscribe(TOPIC, "*")
                .start_orderly(move |batch: Batch| {
                    for message in &batch {
                        ledger.receive(number, message);
                    }
                    std::future::ready(())
                })
                .await?;
            started.push(member);
        }
        Ok(Self(started))
    }

    /// Ends them where they stand: what was not committed comes again.
    pub(crate) fn crash(self) {
        drop(self.0);
    }

    /// Ends them in order.
    pub(crate) async fn shutdown(self) {
        for member in self.0 {
            member.shutdown().await;
        }
    }
}
