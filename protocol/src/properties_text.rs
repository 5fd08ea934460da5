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
        let backslashes = line.bytes().rev().take_while(|b| *b == b'\\').count();
        if backslashes % 2 == 1 {
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
