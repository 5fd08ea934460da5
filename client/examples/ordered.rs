//! Sends the steps of three orders and consumes the steps of each order in their order, even though one of them fails at
//! first.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use agena_client::choose_queue::ByHash;
use agena_client::{Batch, ConsumeFrom, Message, Producer, PushConsumer};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let producer = Producer::builder("example-shop").start().await?;
    for step in ["created", "paid", "shipped"] {
        for order in ["order-1", "order-2", "order-3"] {
            let message = Message::new("order-steps", format!("{order} {step}")).with_key(order);
            // One key, one queue: that is what keeps the steps of an order behind each other.
            producer.send_by(message, &ByHash::of(order)).await?;
        }
    }
    producer.shutdown().await;

    let (done, mut steps) = tokio::sync::mpsc::unbounded_channel();
    let consumer = PushConsumer::builder("example-warehouse")
        .subscribe("order-steps", "*")
        .consume_from(ConsumeFrom::First)
        .start_orderly(move |batch: Batch| {
            let done = done.clone();
            async move {
                for message in &batch {
                    let text = String::from_utf8_lossy(&message.body).into_owned();
                    if text == "order-2 paid" && message.reconsume_times == 0 {
                        // Its queue waits a second and tries again; nothing overtakes this message.
                        return Err("the bank does not answer");
                    }
                    done.send(text).map_err(|_| "nobody listens any more")?;
                }
                Ok(())
            }
        })
        .await?;
    for _ in 0..9 {
        if let Some(step) = steps.recv().await {
            println!("{step}");
        }
    }
    consumer.shutdown().await;
    Ok(())
}
