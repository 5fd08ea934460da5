//! Reading `broker.conf`, and writing changes back into it so that everything else in it stays as the operator wrote
//! it: comments, order, keys we do not know. (The original replaces the file by a dump of 400 keys.)

use std::path::Path;

use agena_protocol::properties_text;

use super::{BrokerConfig, ConfigError};

impl BrokerConfig {
    /// Reads a file over what is set already. Keys nobody knows are named in the log, with their place.
    ///
    /// # Errors
    /// [`ConfigError::Unreadable`]; [`ConfigError::Value`] with file and line.
    pub fn read_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        for (key, value) in properties_text::parse(&text) {
            let place = || place_of(path, &text, &key);
            match self.set(&key, &value) {
                Ok(true) => {}
                Ok(false) => tracing::warn!(
                    place = place(),
                    "unknown key {key} ignored; `mqbroker -p` lists the known ones"
                ),
                Err(expected) => {
                    return Err(ConfigError::Value {
                        place: place(),
                        key,
                        value,
                        expected,
                    });
                }
            }
        }
        Ok(())
    }
}

impl BrokerConfig {
    /// Takes one line `key=value` that an operator typed at `place`. Unlike in a file, a key that nobody knows is an error:
    /// it is a slip, not a setting of another version.
    ///
    /// # Errors
    /// [`ConfigError::Value`]; [`ConfigError::Unusable`] for an unknown key or a line without `=`.
    pub fn set_line(&mut self, place: &str, line: &str) -> Result<(), ConfigError> {
        let Some((key, value)) = line.split_once('=') else {
            return Err(ConfigError::Unusable(format!(
                "{place} {line}: key=value is expected"
            )));
        };
        let (key, value) = (key.trim(), value.trim());
        match self.set(key, value) {
            Ok(true) => Ok(()),
            Ok(false) => Err(ConfigError::Unusable(format!(
                "{place} {line}: no such key; `mqbroker -p` lists them"
            ))),
            Err(expected) => Err(ConfigError::Value {
                place: place.to_owned(),
                key: key.to_owned(),
                value: value.to_owned(),
                expected,
            }),
        }
    }
}

/// `file:line` of the last line that sets `key`, which is the one that counts.
fn place_of(path: &Path, text: &str, key: &str) -> String {
    let line = text
        .lines()
        .enumerate()
        .filter(|(_, line)| sets(line, key))
        .last()
        .map_or(1, |(at, _)| at + 1);
    format!("{}:{line}", path.display())
}

/// This line gives `key` a value.
fn sets(line: &str, key: &str) -> bool {
    line.trim_start()
        .strip_prefix(key)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['=', ':', ' ', '\t', '\u{c}']))
}

/// The text with `changes` in it: the last line that sets a key is replaced, a new key goes to the end.
pub(super) fn with_changes<'a>(
    text: &str,
    changes: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for (key, value) in changes {
        let line = format!("{key}={value}");
        match lines.iter().rposition(|line| sets(line, key)) {
            Some(at) => {
                remove_continuation(&mut lines, at);
                lines[at] = line;
            }
            None => lines.push(line),
        }
    }
    let mut text = lines.join("\n");
    text.push('\n');
    text
}

/// A replaced line takes along the lines it went on in.
fn remove_continuation(lines: &mut Vec<String>, at: usize) {
    let goes_on = |line: &str| line.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1;
    while goes_on(&lines[at]) && at + 1 < lines.len() {
        lines[at] = lines.remove(at + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<BrokerConfig, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mut config = BrokerConfig::default();
        config.read_file(file.path())?;
        Ok(config)
    }

    #[test]
    fn known_keys_are_set_and_unknown_ones_do_no_harm() {
        let config =
            read("# mine\nlistenPort = 20911\nsomethingElse=1\nflushDiskType=SYNC_FLUSH\n")
                .unwrap();
        assert_eq!(config.listen_port, 20911);
        assert_eq!(config.flush_disk_type, super::super::FlushDiskType::Sync);
    }

    #[test]
    fn a_bad_value_names_its_line() {
        let error = read("brokerName=b\n\nlistenPort=ten\n")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(":3: listenPort=ten is not a number from 0 to 65535"),
            "{error}"
        );
    }

    #[test]
    fn a_change_keeps_comments_and_order() {
        let text = "# head\nbrokerName=a\nfileReservedTime : 48\\\n  0\nlistenPort=1\n";
        let changed = with_changes(text, [("fileReservedTime", "72"), ("traceOn", "false")]);
        assert_eq!(
            changed,
            "# head\nbrokerName=a\nfileReservedTime=72\nlistenPort=1\ntraceOn=false\n"
        );
    }
}
