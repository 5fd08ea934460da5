//! What retention removes next, when, and who has not read it.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use agena_protocol::bodies::retention::{ExpiringFile, RetentionExplanation, RetentionRules};
use agena_protocol::command::Command;
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use serde::Serialize;

use crate::call::Call;
use crate::command::{SubCommand, example, value};
use crate::failure::Failure;
use crate::remote::body;
use crate::time_text;

/// A broker with many groups looks at them for some seconds.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const RETENTION_EXPLAIN: SubCommand = SubCommand {
    name: "retentionExplain",
    about: "Explain which log files go next, when, and which groups have not read them.",
    options: &[
        value('b', "brokerAddr", "Broker address"),
        value('c', "clusterName", "which cluster"),
        value('t', "topic", "count unread messages of this topic alone"),
    ],
    examples: &[
        example(
            "-b 127.0.0.1:10911",
            "the rules in force, the disk, the next files with who would lose what",
        ),
        example(
            "-c DefaultCluster -t Orders",
            "of a cluster's masters, unread messages of one topic; without -b and -c of all brokers",
        ),
    ],
    json: r#"per broker {"broker","diskAvailable","diskTotal","diskUsedPercent","files","logBytes","next":[{"bytesLeft","due","expires","file","from","lastWritten","moreGroups","moreMessages","to","unread":[{"group","messages","topic"}]}],"now","rules":{"deleteHours","expirePercent","force","forcePercent","logBytesMax","refusePercent","reservedMs"},"unreadIsComplete"}"#,
    run: retention_explain,
};

fn retention_explain(call: &mut Call) -> Result<(), Failure> {
    let addresses = if let Some(address) = call.options.get("brokerAddr") {
        vec![address.to_owned()]
    } else if let Some(cluster) = call.options.get("clusterName") {
        call.remote.masters(cluster)?
    } else {
        let clusters = call.remote.clusters()?;
        let brokers = clusters.broker_addr_table.values();
        brokers
            .filter_map(|broker| broker.broker_addrs.get(&0).cloned())
            .collect()
    };
    let topic = call.options.get("topic").map(str::to_owned);
    for broker in addresses {
        let explanation = ask(call, &broker, topic.as_deref())?;
        call.out.show(&Explained {
            broker,
            topic: topic.clone(),
            explanation,
        })?;
    }
    Ok(())
}

fn ask(call: &Call, broker: &str, topic: Option<&str>) -> Result<RetentionExplanation, Failure> {
    const STEP: &str = "asking what retention does next";
    let mut request = Command::request(RequestCode::ExplainRetention);
    if let Some(topic) = topic {
        request = request.with_ext("topic", topic);
    }
    let answer = call.remote.ask_within(STEP, broker, request, PATIENCE);
    let answer = answer.map_err(|failure| match failure.refusal() {
        Some(ResponseCode::RequestCodeNotSupported) => Failure::Absent(format!(
            "{broker} cannot explain its retention: it is a broker of the original, or an older one"
        )),
        _ => failure,
    })?;
    body(STEP, broker, &answer)
}

/// What one broker said.
#[derive(Serialize)]
struct Explained {
    broker: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<String>,
    #[serde(flatten)]
    explanation: RetentionExplanation,
}

impl Display for Explained {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let explanation = &self.explanation;
        let rules = &explanation.rules;
        writeln!(f, "Broker {}", self.broker)?;
        self.disk(f)?;
        writeln!(
            f,
            "Age:   a file goes when it was last written to {} ago, {}.",
            span(rules.reserved_ms),
            hours(rules)
        )?;
        match rules.log_bytes_max {
            Some(max) => writeln!(
                f,
                "Size:  {} in {} files; above {} (logBytesMax) the oldest go whatever their age.",
                size(explanation.log_bytes),
                explanation.files,
                size(max)
            )?,
            None => writeln!(
                f,
                "Size:  {} in {} files; no limit (logBytesMax).",
                size(explanation.log_bytes),
                explanation.files
            )?,
        }
        if explanation.next.is_empty() {
            writeln!(
                f,
                "\nNothing goes: the one file that is written to always stays."
            )?;
        }
        for file in &explanation.next {
            self.file(f, file)?;
        }
        if !explanation.unread_is_complete {
            writeln!(
                f,
                "\nThere was no time to look at all groups: more may have unread messages. Name a topic with -t."
            )?;
        }
        Ok(())
    }
}

impl Explained {
    fn disk(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let explanation = &self.explanation;
        let rules = &explanation.rules;
        let used = explanation.disk_used_percent;
        writeln!(
            f,
            "Disk:  {used} % of {} in use, {} free.",
            size(explanation.disk_total),
            size(explanation.disk_available)
        )?;
        let limits = [
            (rules.expire_percent, "files past their time go at any hour"),
            (
                rules.force_percent,
                if rules.force {
                    "the oldest go whatever their age"
                } else {
                    "nothing more happens, since cleanFileForciblyEnable=false"
                },
            ),
            (rules.refuse_percent, "sends are refused"),
        ];
        for (percent, effect) in limits {
            if used > percent {
                writeln!(f, "       Above {percent} % {effect}: now.")?;
            } else {
                let left = size(self.until(percent));
                writeln!(f, "       Above {percent} % {effect}: {left} from here.")?;
            }
        }
        Ok(())
    }

    /// Bytes that may be written before more than `percent` are in use.
    fn until(&self, percent: u8) -> u64 {
        let explanation = &self.explanation;
        let free = u128::from(explanation.disk_total) * u128::from(100_u8.saturating_sub(percent));
        let free = u64::try_from(free / 100).unwrap_or(u64::MAX);
        explanation.disk_available.saturating_sub(free)
    }

    fn file(&self, f: &mut Formatter<'_>, file: &ExpiringFile) -> fmt::Result {
        writeln!(f, "\n{}", file.file)?;
        writeln!(
            f,
            "  offsets {} to {}, last written {}",
            file.from,
            file.to,
            time_text::seconds(file.last_written)
        )?;
        writeln!(f, "  goes {}", self.when(file))?;
        if file.unread.is_empty() {
            return writeln!(f, "  every group that commits offsets has read it");
        }
        for count in &file.unread {
            writeln!(
                f,
                "  {} has not read {} of {} up to here",
                count.group,
                messages(count.messages),
                count.topic
            )?;
        }
        if file.more_groups > 0 {
            writeln!(
                f,
                "  and {} more have not read {}",
                file.more_groups,
                messages(file.more_messages)
            )?;
        }
        Ok(())
    }

    /// By which rule the file goes, and when.
    fn when(&self, file: &ExpiringFile) -> String {
        let explanation = &self.explanation;
        let rules = &explanation.rules;
        let expires = time_text::seconds(file.expires);
        let is_expired = file.expires < explanation.now;
        if rules.force && explanation.disk_used_percent > rules.force_percent {
            return "as soon as those in front of it are gone and the disk is still too full"
                .to_owned();
        }
        if file.bytes_left == Some(0) {
            return "now, since the log is over its bytes".to_owned();
        }
        let by_age = match file.due {
            Some(_) | None
                if is_expired && explanation.disk_used_percent > rules.expire_percent =>
            {
                "now: it is past its time, and the disk fills up".to_owned()
            }
            Some(due) if due <= explanation.now => "now: it is past its time".to_owned(),
            Some(due) => format!(
                "at {} at the latest (past its time from {expires} on)",
                time_text::seconds(due)
            ),
            None => format!(
                "not by age alone, since deleteWhen names no hour (past its time from {expires} on)"
            ),
        };
        match file.bytes_left {
            Some(left) => format!("{by_age}, or when the log grows by {}", size(left)),
            None => by_age,
        }
    }
}

fn hours(rules: &RetentionRules) -> String {
    let hours: Vec<String> = rules
        .delete_hours
        .iter()
        .map(|hour| format!("{hour:02}"))
        .collect();
    match hours.as_slice() {
        [] => "but at no hour".to_owned(),
        [hour] => format!("in the hour from {hour}:00 on"),
        hours => format!("in the hours {}", hours.join(", ")),
    }
}

fn messages(count: u64) -> String {
    match count {
        1 => "1 message".to_owned(),
        count => format!("{count} messages"),
    }
}

/// `1.5 GiB`.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let (mut whole, mut tenths) = (bytes, 0);
    while whole >= 1024 && unit + 1 < UNITS.len() {
        tenths = whole % 1024 * 10 / 1024;
        whole /= 1024;
        unit += 1;
    }
    match unit {
        0 => format!("{whole} {}", UNITS[unit]),
        _ => format!("{whole}.{tenths} {}", UNITS[unit]),
    }
}

/// `72 h`, or minutes and seconds where hours would say nothing.
fn span(ms: u64) -> String {
    match ms / 1000 {
        seconds if seconds >= 3600 => format!("{} h", seconds / 3600),
        seconds if seconds >= 60 => format!("{} min", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans_are_short() {
        assert_eq!(size(1023), "1023 bytes");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(1 << 30), "1.0 GiB");
        assert_eq!(size(u64::MAX), "16777215.9 TiB");
        assert_eq!(span(259_200_000), "72 h");
        assert_eq!(span(90_000), "1 min");
    }
}
