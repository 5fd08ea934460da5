//! A text file as messages, one a line, and back: `lines produce NAMESRV TOPIC FILE`, `lines consume NAMESRV TOPIC GROUP
//! COUNT FILE`.
//!
//! The key of a message is its line's number, its tag says whether the line is longer than eight bytes; what arrives is
//! written as `key tag line`, in the order of arrival. The Java program beside `tests/interop/real-input` does the same, so
//! that either can read what the other has sent.

use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use agena_client::{Batch, ConsumeFrom, Message, Producer, PushConsumer};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout};

const IN_FLIGHT: u32 = 512;

/// After the expected number: so long nothing may come, so that doubles would be seen.
const QUIET: Duration = Duration::from_secs(3);

/// Without a message for so long, the rest is not coming.
const SILENCE: Duration = Duration::from_secs(60);

type Outcome = Result<String, Box<dyn Error>>;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["produce", name_server, topic, file] => produce(name_server, topic, Path::new(file)).await,
        ["consume", name_server, topic, group, count, file] => match count.parse() {
            Ok(count) => consume(name_server, topic, group, count, Path::new(file)).await,
            Err(error) => Err(format!("COUNT {count}: {error}").into()),
        },
        _ => Err("usage: lines produce NAMESRV TOPIC FILE | lines consume NAMESRV TOPIC GROUP COUNT FILE".into()),
    };
    match outcome {
        Ok(said) => {
            let _ = writeln!(std::io::stdout(), "{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "lines: {error}");
            ExitCode::FAILURE
        }
    }
}

fn tag(line: &str) -> &'static str {
    if line.len() > 8 { "long" } else { "short" }
}

async fn produce(name_server: &str, topic: &str, file: &Path) -> Outcome {
    let producer = Producer::builder("lines_producer")
        .name_servers(name_server)
        .timeout(Duration::from_secs(10))
        .start()
        .await?;
    let begin = Instant::now();
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT as usize));
    let (failed, mut failures) = mpsc::unbounded_channel();
    let mut count = 0_usize;
    for line in BufReader::new(File::open(file)?).lines() {
        let line = line?;
        count += 1;
        let message = Message::new(topic, line.clone())
            .with_key(&count.to_string())
            .with_tag(tag(&line));
        let room = Arc::clone(&in_flight).acquire_owned().await?;
        let failed = failed.clone();
        producer.send_with_callback(message, move |result| {
            if let Err(error) = result {
                let _ = failed.send(error);
            }
            drop(room);
        })?;
    }
    let _all = in_flight.acquire_many(IN_FLIGHT).await?;
    producer.shutdown().await;
    drop(failed);
    match failures.recv().await {
        Some(error) => Err(error.into()),
        None => Ok(format!(
            "sent {count} lines in {} ms",
            begin.elapsed().as_millis()
        )),
    }
}

async fn consume(
    name_server: &str,
    topic: &str,
    group: &str,
    expected: usize,
    file: &Path,
) -> Outcome {
    let begin = Instant::now();
    let mut count = 0;
    let (sender, mut received) = mpsc::unbounded_channel();
    let consumer = PushConsumer::builder(group)
        .name_servers(name_server)
        .subscribe(topic, "*")
        .consume_from(ConsumeFrom::First)
        .start(move |batch: Batch| {
            let sender = sender.clone();
            async move {
                for message in batch {
                    let _ = sender.send(message);
                }
            }
        })
        .await?;
    let mut out = BufWriter::new(File::create(file)?);
    let mut last = begin;
    loop {
        let wait = if count < expected { SILENCE } else { QUIET };
        let Ok(Some(message)) = timeout(wait, received.recv()).await else {
            break;
        };
        let keys: Vec<&str> = message.keys().collect();
        write!(
            out,
            "{} {} ",
            keys.join(" "),
            message.tag().unwrap_or_default()
        )?;
        out.write_all(&message.body)?;
        out.write_all(b"\n")?;
        count += 1;
        last = Instant::now();
    }
    out.flush()?;
    consumer.shutdown().await;
    Ok(format!(
        "received {count} lines in {} ms",
        (last - begin).as_millis()
    ))
}
