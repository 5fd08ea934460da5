//! Java's `.properties` text: configuration files, and the bodies of requests 25, 26, 318 and 319.
//!
//! Reading follows `java.util.Properties.load`: comments, three separators, line continuation, escapes. Writing is the
//! original's plain `key=value` per line, which escapes nothing. Source: spec/wire.md §4.1.10.

/// Reads pairs in the order of the text; of a key that occurs twice both are given, and the later one counts.
#[must_use]
pub fn parse(text: &str) -> Vec<(String, String)> {
    logical_lines(text)
        .into_iter()
        .map(|line| split_pair(&line))
        .collect()
}

/// Writes one `key=value` line a pair, in the order given.
#[must_use]
pub fn write<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::new();
    for (key, value) in pairs {
        text.push_str(key);
        text.push('=');
        text.push_str(value);
        text.push('\n');
    }
    text
}

/// The number, from 1, of the last line that sets `key`, which is the one that counts.
#[must_use]
pub fn line_of(text: &str, key: &str) -> Option<usize> {
    let lines: Vec<&str> = text.lines().collect();
    lines
        .iter()
        .rposition(|line| sets(line, key))
        .map(|at| at + 1)
}

/// The text with `changes` in it, everything else as it was: the last line that sets a key is replaced together with
/// the lines it went on in, a new key goes to the end.
#[must_use]
pub fn with_changes<'a>(
    text: &str,
    changes: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for (key, value) in changes {
        let line = format!("{key}={value}");
        match lines.iter().rposition(|line| sets(line, key)) {
            Some(at) => {
                while goes_on(&lines[at]) && at + 1 < lines.len() {
                    lines[at] = lines.remove(at + 1);
                }
                lines[at] = line;
            }
            None => lines.push(line),
        }
    }
    let mut text = lines.join("\n");
    text.push('\n');
    text
}

/// This line gives `key` a value.
fn sets(line: &str, key: &str) -> bool {
    line.trim_start()
        .strip_prefix(key)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['=', ':', ' ', '\t', '\u{c}']))
}

/// It ends in an odd number of backslashes.
fn goes_on(line: &str) -> bool {
    line.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1
}

/// Lines without comments and blanks; a line that ends in an odd number of backslashes goes on in the next one.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open: Option<String> = None;
    for natural in text.replace("\r\n", "\n").split(['\n', '\r']) {
        let line = natural.trim_start_matches([' ', '\t', '\u{c}']);
        let mut logical = match open.take() {
            Some(so_far) => so_far,
            None if line.is_empty() || line.starts_with(['#', '!']) => continue,
            None => String::new(),
        };
        if goes_on(line) {
            logical.push_str(&line[..line.len() - 1]);
            open = Some(logical);
        } else {
            logical.push_str(line);
            lines.push(logical);
        }
    }
    lines.extend(open.filter(|rest| !rest.is_empty()));
    lines
}

/// The key ends at the first `=`, `:` or blank that is not escaped.
fn split_pair(line: &str) -> (String, String) {
    let mut key_end = line.len();
    let mut escaped = false;
    for (at, character) in line.char_indices() {
        if escaped {
            escaped = false;
        } else if character == '\\' {
            escaped = true;
        } else if matches!(character, '=' | ':' | ' ' | '\t' | '\u{c}') {
            key_end = at;
            break;
        }
    }
    let blanks = [' ', '\t', '\u{c}'];
    let rest = line[key_end..].trim_start_matches(blanks);
    let value = rest
        .strip_prefix(['=', ':'])
        .unwrap_or(rest)
        .trim_start_matches(blanks);
    (unescape(&line[..key_end]), unescape(value))
}

fn unescape(text: &str) -> String {
    if !text.contains('\\') {
        return text.to_owned();
    }
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            plain.push(character);
            continue;
        }
        match characters.next() {
            Some('t') => plain.push('\t'),
            Some('n') => plain.push('\n'),
            Some('r') => plain.push('\r'),
            Some('f') => plain.push('\u{c}'),
            Some('u') => {
                let digits: String = characters.by_ref().take(4).collect();
                let unit = u32::from_str_radix(&digits, 16).ok();
                plain.push(
                    unit.and_then(char::from_u32)
                        .unwrap_or(char::REPLACEMENT_CHARACTER),
                );
            }
            Some(other) => plain.push(other),
            None => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        parse(text)
    }

    fn check(text: &str, expected: &[(&str, &str)]) {
        let expected: Vec<_> = expected
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        assert_eq!(pairs(text), expected, "{text:?}");
    }

    #[test]
    fn a_change_keeps_comments_and_order() {
        let text = "# head\nbrokerName=a\nfileReservedTime : 48\\\n  0\nlistenPort=1\n";
        assert_eq!(line_of(text, "fileReservedTime"), Some(3));
        assert_eq!(line_of(text, "fileReserved"), None);
        let changed = with_changes(text, [("fileReservedTime", "72"), ("traceOn", "false")]);
        assert_eq!(
            changed,
            "# head\nbrokerName=a\nfileReservedTime=72\nlistenPort=1\ntraceOn=false\n"
        );
    }

    #[test]
    fn java_s_rules_of_reading() {
        check("a=1\nb: 2\nc 3\n", &[("a", "1"), ("b", "2"), ("c", "3")]);
        check("# no\n  ! no\n\n a = 1 \r\n", &[("a", "1 ")]);
        check("a = x\\\n   y\\\\\nb=", &[("a", "xy\\"), ("b", "")]);
        check("k\\=e\\:y=v\\u0041\\n", &[("k=e:y", "vA\n")]);
        check("a = x\\\r\n  y\r\nb=1", &[("a", "xy"), ("b", "1")]);
        check("only", &[("only", "")]);
        check("a==b", &[("a", "=b")]);
        check("a=1\na=2", &[("a", "1"), ("a", "2")]);
        check("cut\\", &[("cut", "")]);
        check("path=/a:/b", &[("path", "/a:/b")]);
    }

    #[test]
    fn writing_is_one_plain_line_a_pair() {
        assert_eq!(write([("a", "1"), ("b", "x y")]), "a=1\nb=x y\n");
    }
}
