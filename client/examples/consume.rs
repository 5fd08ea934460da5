//! Consumes what `produce` sends, until Ctrl-C.
//!
//! Start it twice and the two share the queues; give them different groups and each gets everything.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use agena_client::{Batch, ConsumeFrom, PushConsumer};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let consumer = PushConsumer::builder("example-consumers")
        .subscribe("greetings", "odd || even")
        .consume_from(ConsumeFrom::First)
        // Called for many messages at the same time. An error or a panic makes its message come again later, at first
        // after 10 s; after 16 failures it is put aside in %DLQ%example-consumers.
        .start(|batch: Batch| async move {
            for message in &batch {
                let text = std::str::from_utf8(&message.body)?;
                println!(
                    "{text} ({}, offset {})",
                    message.queue, message.queue_offset
                );
            }
            Ok::<(), std::str::Utf8Error>(())
        })
        .await?;
    tokio::signal::ctrl_c().await?;
    // Waits for running listeners, saves the offsets, and lets other members have the queues at once.
    consumer.shutdown().await;
    Ok(())
}
