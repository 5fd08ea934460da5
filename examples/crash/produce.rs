//! The load: producers with keys of their own, each key with one message under way at a time.

use std::sync::Arc;
use std::time::Duration;

use agena_client::choose_queue::ByHash;
use agena_client::{ClientConfig, ClientError, Message, Producer, SendStatus};
use tokio::task::JoinSet;

use crate::TOPIC;
use crate::ledger::{Acknowledged, Ledger, Stamp, body};
use crate::servers::Addresses;

const KEYS_PER_PRODUCER: u16 = 8;

/// Longer than a sync takes on a busy machine. Nobody waits for it after a kill: the connections break.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Producers at work.
pub(crate) struct Load {
    senders: JoinSet<()>,
    producers: Vec<Arc<Producer>>,
}

/// Starts them. They go on until a send fails.
pub(crate) async fn start(
    addresses: &Addresses,
    producers: u16,
    ledger: &Arc<Ledger>,
) -> Result<Load, ClientError> {
    let mut load = Load {
        senders: JoinSet::new(),
        producers: Vec::new(),
    };
    for number in 0..producers {
        let producer = Producer::builder("crash-producers")
            .config(ClientConfig::new(&addresses.name_server))
            .timeout(ANSWER_WITHIN)
            // A second try could store a message twice, and then its key is not in order.
            .retries(0)
            .start()
            .await?;
        let producer = Arc::new(producer);
        for key in number * KEYS_PER_PRODUCER..(number + 1) * KEYS_PER_PRODUCER {
            let next = ledger.next_number(key);
            load.senders.spawn(send_all(
                Arc::clone(&producer),
                key,
                next,
                Arc::clone(ledger),
            ));
        }
        load.producers.push(producer);
    }
    Ok(load)
}

impl Load {
    /// Waits until every producer has met the end of the broker.
    pub(crate) async fn end(mut self) {
        while self.senders.join_next().await.is_some() {}
        for producer in self.producers {
            if let Some(producer) = Arc::into_inner(producer) {
                producer.shutdown().await;
            }
        }
    }
}

async fn send_all(producer: Arc<Producer>, key: u16, first: u32, ledger: Arc<Ledger>) {
    let name = format!("key{key}");
    for number in first.. {
        let stamp = Stamp { key, number };
        ledger.sending(stamp);
        let message = Message::new(TOPIC, body::write(stamp)).with_key(&name);
        let Ok(sent) = producer.send_by(message, &ByHash::of(&name)).await else {
            return;
        };
        if sent.status != SendStatus::Ok {
            return ledger.fault(&format!("{stamp:?} is answered by {:?}", sent.status));
        }
        let place = usize::try_from(sent.queue.queue_id).ok();
        match place.zip(usize::try_from(sent.queue_offset).ok()) {
            Some((queue, offset)) => ledger.acknowledge(Acknowledged {
                queue,
                offset,
                stamp,
            }),
            None => return ledger.fault(&format!("{stamp:?} was stored nowhere: {sent:?}")),
        }
    }
}
