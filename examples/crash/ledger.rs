//! What is known of the topic from outside: what was acknowledged, what the log was seen to hold, what consumers got; and
//! every fault found in it.
//!
//! Every message has a [`Stamp`], key and number within the key, from which its body follows. A key lives in one queue and has
//! one message under way at a time, so its numbers ascend in that queue, with gaps where a kill swallowed a send.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agena_client::ReceivedMessage;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// Faults of which the first are told in words.
const FAULTS_TOLD_MAX: usize = 20;

const FIRST_WITHIN: Duration = Duration::from_secs(60);

/// Which message of which key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) key: u16,
    pub(crate) number: u32,
}

/// An answered send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Acknowledged {
    pub(crate) queue: usize,
    pub(crate) offset: usize,
    pub(crate) stamp: Stamp,
}

/// Everything, behind one lock that is never held across a wait.
pub(crate) struct Ledger {
    state: Mutex<State>,
    acknowledged: Notify,
    received: Notify,
}

struct State {
    queues: Vec<QueueLedger>,
    /// Acknowledgements of this round and of those before.
    acknowledged: Vec<Acknowledged>,
    /// The next number of each key.
    next_numbers: HashMap<u16, u32>,
    /// Where in `acknowledged` this round begins.
    round_begins: usize,
    /// What is acknowledged, for whoever looks into a failure.
    file: BufWriter<File>,
    round: Counts,
    whole: Counts,
    told: usize,
}

#[derive(Default)]
struct QueueLedger {
    /// The stamp at each offset from 0 on, as read from the broker.
    log: Vec<Stamp>,
    /// The stamp at each offset from 0 on, as consumers got it.
    received: Vec<Stamp>,
    /// What the restarted broker said is committed.
    committed: usize,
    /// What it said the last time before. A member that takes the queue begins behind it; not behind `committed`, which
    /// another member may have committed after this one had asked: the locks of a killed broker are gone, and two members may
    /// hold a queue until one of them hears of it.
    begin_at: usize,
    /// The next offset of each member that got something of this queue.
    members: HashMap<u32, usize>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    acknowledged: usize,
    received: usize,
    received_again: usize,
    read: usize,
    faults: usize,
}

/// One round in words.
#[derive(Debug)]
pub(crate) struct Summary(Counts);

impl Summary {
    /// Something was acknowledged or read, and nothing was wrong.
    pub(crate) fn is_sound(&self) -> bool {
        self.0.faults == 0 && self.0.acknowledged + self.0.read > 0
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts {
            acknowledged,
            received,
            received_again,
            read,
            faults,
        } = self.0;
        write!(
            f,
            "{acknowledged} acknowledged, {read} read back, {received} consumed and {received_again} again: {}",
            match faults {
                0 => "ok".to_owned(),
                n => format!("{n} FAULTS"),
            }
        )
    }
}

impl Ledger {
    /// Of a topic that is empty; `file` is written anew.
    pub(crate) fn new(queues: usize, file: &Path) -> io::Result<Self> {
        let mut file = BufWriter::new(File::create(file)?);
        writeln!(file, "queue offset key number")?;
        Ok(Self {
            state: Mutex::new(State {
                queues: (0..queues).map(|_| QueueLedger::default()).collect(),
                acknowledged: Vec::new(),
                next_numbers: HashMap::new(),
                round_begins: 0,
                file,
                round: Counts::default(),
                whole: Counts::default(),
                told: 0,
            }),
            acknowledged: Notify::new(),
            received: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is not as it must be.
    pub(crate) fn fault(&self, what: &str) {
        self.state().fault(what);
    }

    /// The number that `key` has not used yet.
    pub(crate) fn next_number(&self, key: u16) -> u32 {
        self.state().next_numbers.get(&key).copied().unwrap_or(0)
    }

    /// A send begins. Its number is used, whatever comes of it.
    pub(crate) fn sending(&self, stamp: Stamp) {
        self.state()
            .next_numbers
            .insert(stamp.key, stamp.number + 1);
    }

    /// A send was answered.
    pub(crate) fn acknowledge(&self, one: Acknowledged) {
        let mut state = self.state();
        let Stamp { key, number } = one.stamp;
        if let Err(error) = writeln!(state.file, "{} {} {key} {number}", one.queue, one.offset) {
            state.fault(&format!("the file of acknowledgements: {error}"));
        }
        state.acknowledged.push(one);
        state.round.acknowledged += 1;
        drop(state);
        self.acknowledged.notify_one();
    }

    /// Returns with the first acknowledgement of the round.
    pub(crate) async fn wait_first_of_round(&self) -> io::Result<()> {
        let first = async {
            while self.state().round.acknowledged == 0 {
                self.acknowledged.notified().await;
            }
        };
        timeout(FIRST_WITHIN, first)
            .await
            .map_err(|_| io::Error::other("no send is answered"))
    }

    /// A member got a message: the one behind its last, or one to begin anew with, which is none that nobody got before.
    pub(crate) fn receive(&self, member: u32, message: &ReceivedMessage) {
        let stamp = match body::read(&message.body) {
            Ok(stamp) => stamp,
            Err(reason) => {
                return self.fault(&format!("consumed at {}: {reason}", place(message)));
            }
        };
        let mut state = self.state();
        let Some((queue, offset)) = state.place(message) else {
            return state.fault(&format!("consumed at {}: no such place", place(message)));
        };
        let ledger = &mut state.queues[queue];
        let (next, begin_at) = (ledger.received.len(), ledger.begin_at);
        let goes_on = ledger.members.insert(member, offset + 1) == Some(offset);
        if offset == next {
            ledger.received.push(stamp);
            state.round.received += 1;
        } else if offset > next {
            state.fault(&format!(
                "queue {queue}: consumers got {offset}, although {next} has not come"
            ));
        } else if !goes_on && offset < begin_at {
            state.fault(&format!(
                "queue {queue}: a consumer begins at {offset}, although {begin_at} was committed"
            ));
        } else if ledger.received[offset] != stamp {
            state.fault(&format!(
                "queue {queue}: consumers got another message at {offset}"
            ));
        } else {
            state.round.received_again += 1;
        }
        drop(state);
        self.received.notify_one();
    }

    /// How many offsets of `queue` were read.
    pub(crate) fn read_up_to(&self, queue: usize) -> usize {
        self.state().queues[queue].log.len()
    }

    /// A message was read from the broker, at the next offset or at one that was read before.
    pub(crate) fn read(&self, message: &ReceivedMessage) {
        let stamp = match body::read(&message.body) {
            Ok(stamp) => stamp,
            Err(reason) => return self.fault(&format!("read at {}: {reason}", place(message))),
        };
        let mut state = self.state();
        let Some((queue, offset)) = state.place(message) else {
            return state.fault(&format!("read at {}: no such place", place(message)));
        };
        state.round.read += 1;
        let log = &mut state.queues[queue].log;
        match log.get(offset) {
            Some(before) if *before != stamp => state.fault(&format!(
                "queue {queue}: offset {offset} names another message than before"
            )),
            Some(_) => {}
            None if offset == log.len() => log.push(stamp),
            None => {
                let next = log.len();
                state.fault(&format!("queue {queue}: {offset} follows upon {next}"));
            }
        }
    }

    /// What the broker says of a queue after a restart: its end, and what is committed. `durable` was committed long enough before.
    pub(crate) fn restarted(&self, queue: usize, end: usize, committed: usize, durable: usize) {
        let mut state = self.state();
        let ledger = &mut state.queues[queue];
        let least = ledger.committed.max(durable);
        ledger.begin_at = ledger.committed;
        ledger.committed = committed;
        let seen = ledger.received.len().max(ledger.log.len());
        if committed < least {
            state.fault(&format!(
                "queue {queue}: {committed} is committed, and was {least}"
            ));
        }
        if committed > end {
            state.fault(&format!(
                "queue {queue}: {committed} is committed, beyond the end {end}"
            ));
        }
        if end < seen {
            state.fault(&format!("queue {queue}: ends at {end}, and held {seen}"));
        }
    }

    /// Compares what was read with what was acknowledged (in this round, or ever) and with what consumers got, and looks at the
    /// order of every key.
    pub(crate) fn compare(&self, whole: bool) {
        let mut state = self.state();
        let from = if whole { 0 } else { state.round_begins };
        let mut faults = Vec::new();
        for one in &state.acknowledged[from..] {
            let Acknowledged {
                queue,
                offset,
                stamp,
            } = *one;
            match state.queues[queue].log.get(offset) {
                Some(there) if *there == stamp => {}
                there => faults.push(format!(
                    "LOST: {stamp:?} was acknowledged at {offset} of queue {queue}, there is {there:?}"
                )),
            }
        }
        for (number, queue) in state.queues.iter().enumerate() {
            let got = queue.received.iter().zip(&queue.log).enumerate();
            for (offset, _) in got.filter(|(_, (got, there))| got != there) {
                faults.push(format!(
                    "queue {number}: what consumers got at {offset} is not what is there"
                ));
            }
            faults.extend(disorder(number, &queue.log));
        }
        for fault in faults {
            state.fault(&fault);
        }
    }

    /// Returns when consumers have got all that was read; what is missing after `within` is a fault.
    pub(crate) async fn wait_all_received(&self, within: Duration) {
        let deadline = Instant::now() + within;
        loop {
            let more = self.received.notified();
            let missing = self.state().not_received();
            let Some(missing) = missing else { return };
            if tokio::time::timeout_at(deadline, more).await.is_err() {
                return self.fault(&format!("consumers do not get {missing}"));
            }
        }
    }

    /// Closes the round.
    pub(crate) fn end_round(&self) -> Summary {
        let mut state = self.state();
        let round = std::mem::take(&mut state.round);
        state.round_begins = state.acknowledged.len();
        if let Err(error) = state.file.flush() {
            state.fault(&format!("the file of acknowledgements: {error}"));
        }
        let whole = &mut state.whole;
        whole.acknowledged += round.acknowledged;
        whole.received += round.received;
        whole.received_again += round.received_again;
        whole.read += round.read;
        whole.faults += round.faults;
        Summary(round)
    }

    /// All rounds in words.
    pub(crate) fn totals(&self) -> String {
        format!("all rounds: {}", Summary(self.state().whole))
    }
}

impl State {
    fn fault(&mut self, what: &str) {
        self.round.faults += 1;
        self.told += 1;
        if self.told <= FAULTS_TOLD_MAX {
            crate::say(&format!("FAULT {what}"));
        }
    }

    fn place(&self, message: &ReceivedMessage) -> Option<(usize, usize)> {
        let queue = usize::try_from(message.queue.queue_id).ok()?;
        let offset = usize::try_from(message.queue_offset).ok()?;
        (queue < self.queues.len()).then_some((queue, offset))
    }

    fn not_received(&self) -> Option<String> {
        self.queues.iter().enumerate().find_map(|(number, queue)| {
            let (got, end) = (queue.received.len(), queue.log.len());
            (got < end).then(|| format!("{got}..{end} of queue {number}"))
        })
    }
}

/// Where a key's numbers do not ascend.
fn disorder(queue: usize, log: &[Stamp]) -> Vec<String> {
    let mut last = HashMap::new();
    let mut faults = Vec::new();
    for (offset, stamp) in log.iter().enumerate() {
        if let Some(before) = last.insert(stamp.key, stamp.number)
            && before >= stamp.number
        {
            faults.push(format!(
                "queue {queue}: {stamp:?} at {offset} stands behind number {before}"
            ));
        }
    }
    faults
}

fn place(message: &ReceivedMessage) -> String {
    format!("{} of {}", message.queue_offset, message.queue)
}

/// Bodies: the stamp, and a filling of 100 to 900 bytes that follows from it, so that a body is checked without having been kept.
pub(crate) mod body {
    use super::Stamp;

    const HEAD_BYTES: usize = 6;

    /// The body of a message.
    pub(crate) fn write(stamp: Stamp) -> Vec<u8> {
        let mut body = Vec::with_capacity(906);
        body.extend(stamp.key.to_be_bytes());
        body.extend(stamp.number.to_be_bytes());
        let mut filling =
            fastrand::Rng::with_seed(u64::from(stamp.key) << 32 | u64::from(stamp.number));
        body.resize(HEAD_BYTES + filling.usize(100..900), 0);
        filling.fill(&mut body[HEAD_BYTES..]);
        body
    }

    /// The stamp of a body that is whole.
    pub(crate) fn read(body: &[u8]) -> Result<Stamp, &'static str> {
        let (key, rest) = body.split_first_chunk().ok_or("the body is too short")?;
        let (number, _) = rest.split_first_chunk().ok_or("the body is too short")?;
        let stamp = Stamp {
            key: u16::from_be_bytes(*key),
            number: u32::from_be_bytes(*number),
        };
        match write(stamp) == body {
            true => Ok(stamp),
            false => Err("the body is damaged"),
        }
    }
}
