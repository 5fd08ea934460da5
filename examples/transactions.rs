//! Transactions by the thousand: `transactions produce NAMESRV TOPIC GROUP NAME COUNT LOG`, `transactions collect NAMESRV
//! TOPIC FILE`, `transactions commit NAMESRV TOPIC GROUP COUNT`, `transactions halves NAMESRV TOPIC GROUP COUNT`.
//!
//! `produce` sends COUNT transactions of which some are committed, some rolled back, some decided by a check only and some
//! never, as the first letter of their bodies says; NAME and a number follow it. What happens is written to LOG first, a
//! line each, so that a killed process has told all that it did; started again it runs the numbers that LOG does not
//! have, and stays for the checks. Each message has NAME and the number as `AGENA_PRODUCER_ID` and `AGENA_SEQUENCE`, so that
//! a number is one half message however often it is sent, by this process or the one before. `collect` writes
//! what consumers can see: transaction id and body, a line each. `commit` commits COUNT transactions as fast as it goes,
//! against any broker, and fails if one of them cannot be sent. `halves` begins COUNT transactions that nobody decides, says `sent`, and stays for the checks, which it
//! answers with "unknown". `.ci/chaos-transactions`, `benches/transactions` and `benches/pending-halves` use it.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agena_client::{
    Message, Producer, PullConsumer, ReceivedMessage, Resolution, SendStatus, TransactionListener,
    TransactionProducer,
};
use tokio::sync::Semaphore;
use tokio::time::Instant;

const IN_FLIGHT: u32 = 64;

/// No number is sent before all in front of the last multiple of this are done: a broker remembers the last 1,000 of a
/// producer, and one that is tried again for long must not fall out of them.
const SPAN: u64 = 400;

/// Code and words by which a broker refuses a half message that is sent once more when it is decided already.
const MESSAGE_ILLEGAL: i32 = 13;
const DECIDED: &str = "was decided meanwhile";

type Outcome = Result<String, Box<dyn Error>>;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["produce", name_server, topic, group, name, count, log] => match count.parse() {
            Ok(count) => produce(name_server, topic, group, name, count, Path::new(log)).await,
            Err(error) => Err(format!("COUNT {count}: {error}").into()),
        },
        ["collect", name_server, topic, file] => collect(name_server, topic, Path::new(file)).await,
        ["commit", name_server, topic, group, count] => match count.parse() {
            Ok(count) => commit(name_server, topic, group, count).await,
            Err(error) => Err(format!("COUNT {count}: {error}").into()),
        },
        ["halves", name_server, topic, group, count] => match count.parse() {
            Ok(count) => halves(name_server, topic, group, count).await,
            Err(error) => Err(format!("COUNT {count}: {error}").into()),
        },
        _ => Err("usage: transactions produce NAMESRV TOPIC GROUP NAME COUNT LOG | transactions collect NAMESRV TOPIC FILE | \
                  transactions commit NAMESRV TOPIC GROUP COUNT | transactions halves NAMESRV TOPIC GROUP COUNT"
            .into()),
    };
    match outcome {
        Ok(said) => {
            let _ = writeln!(std::io::stdout(), "{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "transactions: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What becomes of the transaction with this number; all kinds come soon, in no order that matters.
fn kind(number: u64) -> char {
    let mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    match mixed % 20 {
        0..=10 => 'c',  // committed at once
        11..=14 => 'r', // rolled back at once
        15..=16 => 'C', // committed when asked
        17..=18 => 'R', // rolled back when asked
        _ => 'u',       // never known
    }
}

/// What happened, for whoever looks after this process.
struct Notes(File);

impl Notes {
    fn add(&self, line: String) {
        // One write for a line: of a killed process the file has whole lines.
        let _ = (&self.0).write_all((line + "\n").as_bytes());
    }
}

/// Decides as the body says and writes down what it is asked.
struct AsTheBodySays(Arc<Notes>);

impl TransactionListener for AsTheBodySays {
    async fn execute(&self, message: &Message, transaction_id: &str) -> Resolution {
        let body = String::from_utf8_lossy(message.body()).into_owned();
        self.0.add(format!("execute {transaction_id} {body}"));
        match body.chars().next() {
            Some('c') => Resolution::Commit,
            Some('r') => Resolution::Rollback,
            _ => Resolution::Unknown,
        }
    }

    async fn check(&self, message: &ReceivedMessage) -> Resolution {
        self.0.add(format!("check {}", message.msg_id()));
        match message.body.first() {
            Some(b'c' | b'C') => Resolution::Commit,
            Some(b'r' | b'R') => Resolution::Rollback,
            _ => Resolution::Unknown,
        }
    }
}

async fn produce(
    name_server: &str,
    topic: &str,
    group: &str,
    name: &str,
    count: u64,
    log: &Path,
) -> Outcome {
    let done: BTreeSet<u64> = match File::open(log) {
        Ok(file) => BufReader::new(file)
            .lines()
            .map_while(Result::ok)
            .filter(|line| !line.starts_with("check "))
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect(),
        Err(_) => BTreeSet::new(),
    };
    let file = File::options().create(true).append(true).open(log)?;
    let notes = Arc::new(Notes(file));
    let producer = Producer::builder(group)
        .name_servers(name_server)
        .topics([topic])
        .timeout(Duration::from_secs(3))
        .start_transactional(AsTheBodySays(Arc::clone(&notes)))
        .await?;
    let producer = Arc::new(producer);
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT as usize));
    let mut span = 0;
    for number in (0..count).filter(|number| !done.contains(number)) {
        if number / SPAN != span {
            span = number / SPAN;
            drop(in_flight.acquire_many(IN_FLIGHT).await?);
        }
        let room = Arc::clone(&in_flight).acquire_owned().await?;
        let (producer, notes) = (producer.clone(), Arc::clone(&notes));
        let body = format!("{} {name} {number}", kind(number));
        let message = Message::new(topic, body.clone())
            .with_property("AGENA_PRODUCER_ID", name)
            .with_property("AGENA_SEQUENCE", number.to_string());
        tokio::spawn(async move {
            // The same message again, as long as it takes: it is one half message.
            loop {
                match producer.send(message.clone()).await {
                    Ok(sent) if sent.half.status == SendStatus::Ok => break,
                    Ok(sent) => {
                        let id = sent.half.transaction_id.unwrap_or(sent.half.msg_id);
                        break notes.add(format!("unsafe {id} {body}"));
                    }
                    // Its half was stored, the answer lost, and a check has decided it meanwhile.
                    Err(error) if error.to_string().contains(DECIDED) => {
                        break notes.add(format!("decided - {body}"));
                    }
                    Err(error) if error.broker_code() == Some(MESSAGE_ILLEGAL) => {
                        break notes.add(format!("refused {error:?} {body}"));
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
            drop(room);
        });
    }
    let _all = in_flight.acquire_many(IN_FLIGHT).await?;
    writeln!(std::io::stdout(), "sent")?;
    // Whoever started this process ends it when nothing is pending any more.
    std::future::pending::<()>().await;
    Ok(String::new())
}

async fn collect(name_server: &str, topic: &str, file: &Path) -> Outcome {
    let consumer = PullConsumer::builder("transactions_collector")
        .name_servers(name_server)
        .auto_commit(None)
        .start()
        .await?;
    let queues = consumer.queues_of(topic).await?;
    let mut left = 0;
    for queue in &queues {
        left += consumer.max_offset(queue).await? - consumer.min_offset(queue).await?;
    }
    consumer.assign(queues.clone()).await;
    for queue in &queues {
        consumer.seek_to_begin(queue).await?;
    }
    let mut out = BufWriter::new(File::create(file)?);
    let mut count = 0;
    while left > 0 {
        let messages = consumer.poll(Duration::from_secs(10)).await?;
        if messages.is_empty() {
            return Err(format!("{left} messages do not come").into());
        }
        for message in messages {
            let body = String::from_utf8_lossy(&message.body).into_owned();
            writeln!(out, "{} {body}", message.msg_id())?;
            left -= 1;
            count += 1;
        }
    }
    out.flush()?;
    consumer.shutdown().await;
    Ok(format!("collected {count} messages"))
}

/// Says the same of every transaction.
struct Always(Resolution);

impl TransactionListener for Always {
    async fn execute(&self, _: &Message, _: &str) -> Resolution {
        self.0
    }

    async fn check(&self, _: &ReceivedMessage) -> Resolution {
        self.0
    }
}

async fn commit(name_server: &str, topic: &str, group: &str, count: u64) -> Outcome {
    let begin = Instant::now();
    let producer = send(name_server, topic, group, count, Resolution::Commit).await?;
    let took = begin.elapsed();
    // A commit has no answer; that to the farewell behind them all says that the broker has read them.
    if let Some(producer) = Arc::into_inner(producer) {
        producer.shutdown().await;
    }
    Ok(format!("committed {count} in {} ms", took.as_millis()))
}

async fn halves(name_server: &str, topic: &str, group: &str, count: u64) -> Outcome {
    let _producer = send(name_server, topic, group, count, Resolution::Unknown).await?;
    writeln!(std::io::stdout(), "sent")?;
    std::future::pending::<()>().await;
    Ok(String::new())
}

/// Sends so many transactions of 1 KiB, as many at once as [`IN_FLIGHT`].
async fn send(
    name_server: &str,
    topic: &str,
    group: &str,
    count: u64,
    resolution: Resolution,
) -> Result<Arc<TransactionProducer>, Box<dyn Error>> {
    let producer: TransactionProducer = Producer::builder(group)
        .name_servers(name_server)
        .topics([topic])
        .timeout(Duration::from_secs(10))
        .start_transactional(Always(resolution))
        .await?;
    let producer = Arc::new(producer);
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT as usize));
    let failed = Arc::new(AtomicU64::new(0));
    let body = vec![b'x'; 1_024];
    for _ in 0..count {
        let room = Arc::clone(&in_flight).acquire_owned().await?;
        let (producer, message) = (producer.clone(), Message::new(topic, body.clone()));
        let failed = Arc::clone(&failed);
        tokio::spawn(async move {
            let sent = producer.send(message).await;
            let done = sent.is_ok_and(|sent| sent.resolution == resolution);
            failed.fetch_add(u64::from(!done), Ordering::Relaxed);
            // In this order: who has all the room has the producer alone.
            drop(producer);
            drop(room);
        });
    }
    drop(in_flight.acquire_many(IN_FLIGHT).await?);
    match failed.load(Ordering::Relaxed) {
        0 => Ok(producer),
        failed => Err(format!("{failed} of {count} transactions failed").into()),
    }
}
