//! Sends ten messages and says where each of them is.
//!
//! Start a broker with `cargo run --release`, then `cargo run -p agena-client --example produce`. The name server is
//! `127.0.0.1:9876` unless `NAMESRV_ADDR` says otherwise.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use agena_client::{ClientError, Message, Producer};

#[tokio::main]
async fn main() -> Result<(), ClientError> {
    let producer = Producer::builder("example-producers").start().await?;
    for number in 1..=10 {
        let message = Message::new("greetings", format!("hello {number}"))
            .with_tag(if number % 2 == 0 { "even" } else { "odd" })
            .with_key(&format!("greeting-{number}"));
        // Returns when a broker has the message; tries another one if the first fails.
        let sent = producer.send(message).await?;
        println!(
            "{} at {}, offset {}",
            sent.msg_id, sent.queue, sent.queue_offset
        );
    }
    producer.shutdown().await;
    Ok(())
}
