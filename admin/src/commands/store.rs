//! A stopped store's directory: verify it, dump it, build its queues and index anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::Path;

use agena_protocol::bodies::topic_config::TopicConfigSerializeWrapper;
use agena_protocol::fastjson;
use agena_store::StoreConfig;
use agena_store::inspect::{self, Fault, Found, Progress, Rebuilt, Verified, VerifyOptions};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::call::Call;
use crate::command::{Opt, SubCommand, example, value};
use crate::failure::Failure;
use crate::message::{Line, Message};

const ROOT: Opt = value(
    'd',
    "storePath",
    "the broker's storePathRootDir; the broker must be stopped",
)
.required();

pub(crate) const STORE_VERIFY: SubCommand = SubCommand {
    name: "storeVerify",
    about: "Check a stopped store: log, queues, index, consumer offsets and checkpoint agree.",
    options: &[
        ROOT,
        value(
            's',
            "slots",
            "maxHashSlotNum of the broker that wrote the index | default 5000000",
        ),
    ],
    examples: &[
        example(
            "-d ./agena-data/store",
            "what was checked, and every fault with file and place; exit code 2 if there is one",
        ),
        example(
            "-d /var/rocketmq/store --json",
            "the same for scripts; works on the original's stores too",
        ),
    ],
    json: r#"{"logStart","logEnd","records","queues","entries","batchRecords","indexFiles","indexEntries","consumerOffsets","faultCount","faults":[{"file","at","reason"}]}; the first 1000 faults"#,
    run: store_verify,
};

/// What a check found.
#[derive(Serialize)]
#[serde(transparent)]
struct Report(Verified);

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let report = &self.0;
        for Fault { file, at, reason } in &report.faults {
            writeln!(f, "{}, {at}: {reason}", file.display())?;
        }
        writeln!(f, "{:<20}{}..{}", "Log:", report.log_start, report.log_end)?;
        writeln!(f, "{:<20}{}", "Records:", report.records)?;
        writeln!(
            f,
            "{:<20}{}, entries compared: {}",
            "Queues:", report.queues, report.entries
        )?;
        if report.batch_records > 0 {
            writeln!(
                f,
                "{:<20}{} (their queues are not compared)",
                "Batch records:", report.batch_records
            )?;
        }
        writeln!(
            f,
            "{:<20}{}, entries compared: {}",
            "Index files:", report.index_files, report.index_entries
        )?;
        writeln!(f, "{:<20}{}", "Consumer offsets:", report.consumer_offsets)?;
        writeln!(f, "{:<20}{}", "Faults:", report.fault_count)
    }
}

fn store_verify(call: &mut Call) -> Result<(), Failure> {
    let root = call.options.required("storePath")?.to_owned();
    let mut options = VerifyOptions::default();
    if let Some(slots) = call.options.number("slots")? {
        options.index_slots = slots;
    }
    let mut bar = Bar::default();
    let report = inspect::verify(Path::new(&root), &options, &mut |progress| {
        bar.show(progress)
    })
    .map_err(|error| Failure::Absent(error.to_string()))?;
    bar.clear();
    let faults = report.fault_count;
    call.out.show(&Report(report))?;
    if faults == 0 {
        Ok(())
    } else {
        Err(Failure::Absent(format!("{faults} faults in {root}")))
    }
}

/// A bar on the error stream, if somebody looks at it.
#[derive(Default)]
struct Bar {
    part: &'static str,
    bar: Option<ProgressBar>,
}

impl Bar {
    fn show(&mut self, progress: Progress) {
        if !std::io::stderr().is_terminal() {
            return;
        }
        if self.part != progress.part {
            self.clear();
            let bar = ProgressBar::new(progress.total);
            if let Ok(style) = ProgressStyle::with_template("{msg:12} {wide_bar} {percent}%") {
                bar.set_style(style);
            }
            bar.set_message(progress.part);
            self.part = progress.part;
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(progress.done);
        }
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

pub(crate) const STORE_DUMP: SubCommand = SubCommand {
    name: "storeDump",
    about: "Print the records of a stopped store in the order of the log.",
    options: &[
        ROOT,
        value(
            'o',
            "offset",
            "first offset of the log to print | default 0",
        ),
        value('c', "count", "how many records | default all"),
        value('t', "topic", "only this topic"),
    ],
    examples: &[
        example("-d ./agena-data/store -c 10", "the first ten records"),
        example(
            "-d ./agena-data/store -t Orders --json",
            "a topic's messages as JSON, one a line",
        ),
    ],
    json: r#"per record the message as queryMsgById has it; for what is no record {"file","at","reason"}"#,
    run: store_dump,
};

/// A place that should be a record and is none.
#[derive(Serialize)]
#[serde(transparent)]
struct Broken(Fault);

impl Display for Broken {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "DAMAGE: {}, {}: {}",
            self.0.file.display(),
            self.0.at,
            self.0.reason
        )
    }
}

fn store_dump(call: &mut Call) -> Result<(), Failure> {
    let root = call.options.required("storePath")?.to_owned();
    let from: u64 = call.options.number("offset")?.unwrap_or(0);
    let mut left: u64 = call.options.number("count")?.unwrap_or(u64::MAX);
    let topic = call.options.get("topic").map(str::to_owned);
    let mut outcome = Ok(());
    let out = &mut call.out;
    inspect::dump(Path::new(&root), |file, at, found| {
        if left == 0 {
            return ControlFlow::Break(());
        }
        let shown = match found {
            Found::Damage(reason) => out.show(&Broken(Fault {
                file: file.to_owned(),
                at,
                reason,
            })),
            Found::Record(record)
                if at >= from && topic.as_ref().is_none_or(|topic| topic == record.topic()) =>
            {
                left -= 1;
                let message = Message::of(&record, "");
                out.show(&Line {
                    message: &message,
                    with_body: true,
                })
            }
            Found::Record(_) => Ok(()),
        };
        if shown.is_err() {
            outcome = shown;
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })
    .map_err(|error| Failure::Absent(error.to_string()))?;
    outcome
}

pub(crate) const STORE_REBUILD: SubCommand = SubCommand {
    name: "storeRebuild",
    about: "Build queues, index and checkpoint of a stopped store anew from its log.",
    options: &[
        ROOT,
        value(
            's',
            "slots",
            "maxHashSlotNum for the new index | default 5000000",
        ),
        value(
            'i',
            "indexNum",
            "maxIndexNum for the new index | default 20000000",
        ),
        value(
            'q',
            "queueFileSize",
            "mappedFileSizeConsumeQueue for the new queues | default 6000000",
        ),
    ],
    examples: &[example(
        "-d ./agena-data/store",
        "the former files are kept below set-aside-1; the log is not touched",
    )],
    json: r#"{"setAside":"path","logEnd","records","queues"}"#,
    run: store_rebuild,
};

/// What a rebuild did.
#[derive(Serialize)]
#[serde(transparent)]
struct Anew(Rebuilt);

impl Display for Anew {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let done = &self.0;
        writeln!(
            f,
            "{} queues were built from {} records; the log ends at {}",
            done.queues, done.records, done.log_end
        )?;
        writeln!(f, "the former files are in {}", done.set_aside.display())
    }
}

fn store_rebuild(call: &mut Call) -> Result<(), Failure> {
    let options = &call.options;
    let root = options.required("storePath")?.to_owned();
    let mut config = StoreConfig::new(&root);
    config.index_slots = options.number("slots")?.unwrap_or(config.index_slots);
    config.index_entries = options.number("indexNum")?.unwrap_or(config.index_entries);
    config.queue_file_bytes = options
        .number("queueFileSize")?
        .unwrap_or(config.queue_file_bytes);
    let batch_topics = batch_topics(Path::new(&root));
    config.is_batch_topic = std::sync::Arc::new(move |topic| batch_topics.contains(topic));
    let rebuilt = inspect::rebuild(config).map_err(|error| Failure::Absent(error.to_string()))?;
    call.out.show(&Anew(rebuilt))
}

/// The topics whose queues are of the batch kind, as the store's own settings say.
fn batch_topics(root: &Path) -> BTreeSet<String> {
    let text = std::fs::read(root.join("config").join("topics.json")).unwrap_or_default();
    let wrapper: TopicConfigSerializeWrapper = fastjson::from_slice(&text).unwrap_or_default();
    let batch = |attributes: &BTreeMap<String, String>| {
        attributes
            .get("queue.type")
            .is_some_and(|kind| kind == "BatchCQ")
    };
    wrapper
        .topic_config_table
        .into_iter()
        .filter(|(_, config)| batch(&config.attributes))
        .map(|(name, _)| name)
        .collect()
}
