//! The words of lenient JSON: strings, bare words, delimiters. Shared by headers and bodies; nothing here recurses.
//!
//! Strings without escapes are borrowed; bytes that are not UTF-8 become replacement characters, as in Java.

use std::borrow::Cow;

use crate::fastjson::JsonError;

/// A place in a text.
#[derive(Debug, Clone)]
pub(crate) struct JsonText<'a> {
    bytes: &'a [u8],
    /// The same bytes, if all of them are UTF-8, as they nearly always are: then no string needs its own check.
    text: Option<&'a str>,
    at: usize,
}

impl<'a> JsonText<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            text: std::str::from_utf8(bytes).ok(),
            at: 0,
        }
    }

    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// The text from `from` up to here.
    pub(crate) fn since(&self, from: usize) -> &'a [u8] {
        &self.bytes[from..self.at]
    }

    pub(crate) fn error(&self, reason: &'static str) -> JsonError {
        JsonError::Syntax {
            reason,
            at: self.at,
        }
    }

    /// The next byte that is not blank, left in place.
    #[inline]
    pub(crate) fn peek(&mut self) -> Option<u8> {
        while let Some(&byte) = self.bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    /// Steps over the byte that [`JsonText::peek`] gave.
    #[inline]
    pub(crate) fn step(&mut self) {
        self.at += 1;
    }

    #[inline]
    pub(crate) fn expect(&mut self, byte: u8, reason: &'static str) -> Result<(), JsonError> {
        if self.peek() == Some(byte) {
            self.at += 1;
            return Ok(());
        }
        Err(self.error(reason))
    }

    /// A quoted string or a bare word, as text.
    #[inline]
    pub(crate) fn word(&mut self) -> Result<Cow<'a, str>, JsonError> {
        match self.peek() {
            Some(b'"' | b'\'') => self.string(),
            _ => self.bare().map(Cow::Borrowed),
        }
    }

    /// Letters, digits and signs up to the next delimiter.
    pub(crate) fn bare(&mut self) -> Result<&'a str, JsonError> {
        self.peek();
        let from = self.at;
        while self.bytes.get(self.at).is_some_and(|b| {
            b.is_ascii_alphanumeric() || matches!(b, b'-' | b'+' | b'.' | b'_' | b'$')
        }) {
            self.at += 1;
        }
        if self.at == from {
            return Err(self.error("expected a value"));
        }
        // Only ASCII was stepped over.
        std::str::from_utf8(&self.bytes[from..self.at]).map_err(|_| self.error("not UTF-8"))
    }

    /// A string; the next byte is its quote.
    #[inline]
    pub(crate) fn string(&mut self) -> Result<Cow<'a, str>, JsonError> {
        if let Some(plain) = self.plain_string()? {
            return Ok(Cow::Borrowed(plain));
        }
        let mut plain = String::new();
        self.unescape_string(&mut plain)?;
        Ok(Cow::Owned(plain))
    }

    /// A string without escapes, of a text that is UTF-8; `None` leaves the string for
    /// [`JsonText::unescape_string`].
    #[inline(always)]
    pub(crate) fn plain_string(&mut self) -> Result<Option<&'a str>, JsonError> {
        let Some(&quote) = self.bytes.get(self.at) else {
            return Err(self.error("expected a string"));
        };
        let from = self.at + 1;
        let end = self.end_of_run(from, quote)?;
        if self.bytes[end] == b'\\' {
            return Ok(None);
        }
        let plain = self.text.and_then(|text| text.get(from..end));
        if plain.is_some() {
            self.at = end + 1;
        }
        Ok(plain)
    }

    /// Appends what a string says to `plain`; the next byte is its quote.
    pub(crate) fn unescape_string(&mut self, plain: &mut String) -> Result<(), JsonError> {
        let quote = self.byte_of_string(self.at)?;
        if plain.capacity() == 0 {
            // Once, for all strings of the text: none gets longer by reading it.
            plain.reserve(self.bytes.len() - self.at);
        }
        let mut run_from = self.at + 1;
        loop {
            let run_end = self.end_of_run(run_from, quote)?;
            plain.push_str(&self.slice(run_from, run_end));
            if self.bytes[run_end] == quote {
                self.at = run_end + 1;
                return Ok(());
            }
            run_from = self.unescape(run_end + 1, plain)?;
        }
    }

    /// The text between two places.
    #[inline]
    fn slice(&self, from: usize, end: usize) -> Cow<'a, str> {
        match self.text.and_then(|text| text.get(from..end)) {
            Some(text) => Cow::Borrowed(text),
            None => String::from_utf8_lossy(&self.bytes[from..end]),
        }
    }

    /// Where the next quote or backslash stands: eight bytes at a time, since most of a text is strings.
    #[inline]
    fn end_of_run(&self, from: usize, quote: u8) -> Result<usize, JsonError> {
        let mut at = from;
        while let Some(word) = self.bytes.get(at..at + 8) {
            let word = u64::from_be_bytes(word.try_into().unwrap_or_default());
            let found = equal_bytes(word, quote) | equal_bytes(word, b'\\');
            if found != 0 {
                return Ok(at + found.leading_zeros() as usize / 8);
            }
            at += 8;
        }
        let rest = self.bytes.get(at..).unwrap_or_default();
        match rest.iter().position(|&byte| byte == quote || byte == b'\\') {
            Some(length) => Ok(at + length),
            None => Err(self.error("string is cut")),
        }
    }

    /// Reads what follows a backslash at `at`; the answer is where it ends.
    fn unescape(&self, at: usize, plain: &mut String) -> Result<usize, JsonError> {
        let mut behind = at + 1;
        plain.push(match self.byte_of_string(at)? {
            b'u' => self.unicode_escape(&mut behind)?,
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            ascii if ascii.is_ascii() => char::from(ascii),
            // The backslash says nothing then; the character is copied with the run that follows.
            _ => return Ok(at),
        });
        Ok(behind)
    }

    fn byte_of_string(&self, at: usize) -> Result<u8, JsonError> {
        self.bytes.get(at).copied().ok_or(JsonError::Syntax {
            reason: "string is cut",
            at,
        })
    }

    /// What follows `\u`, with the second half of a surrogate pair where there is one.
    fn unicode_escape(&self, at: &mut usize) -> Result<char, JsonError> {
        let unit = self.hex(at)?;
        if (0xd800..0xdc00).contains(&unit) && self.bytes.get(*at..*at + 2) == Some(b"\\u") {
            let mut behind = *at + 2;
            let low = self.hex(&mut behind)?;
            if (0xdc00..0xe000).contains(&low) {
                *at = behind;
                let code = 0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
        }
        Ok(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn hex(&self, at: &mut usize) -> Result<u32, JsonError> {
        let bad = JsonError::Syntax {
            reason: "bad \\u escape",
            at: *at,
        };
        let Some(&[a, b, c, d]) = self.bytes.get(*at..*at + 4) else {
            return Err(bad);
        };
        let [a, b, c, d] = [a, b, c, d].map(hex_value);
        if (a | b | c | d) > 15 {
            return Err(bad);
        }
        *at += 4;
        Ok(a << 12 | b << 8 | c << 4 | d)
    }
}

/// The value of a hexadecimal digit; anything above 15 is none.
#[inline]
fn hex_value(digit: u8) -> u32 {
    match digit {
        b'0'..=b'9' => u32::from(digit - b'0'),
        b'a'..=b'f' => u32::from(digit - b'a' + 10),
        b'A'..=b'F' => u32::from(digit - b'A' + 10),
        _ => 16,
    }
}

/// The highest bit of every byte of `word` that equals `byte`, and no other bit.
fn equal_bytes(word: u64, byte: u8) -> u64 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let differs = word ^ (u64::from(byte) * 0x0101_0101_0101_0101);
    !(((differs & LOW) + LOW) | differs | LOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(text: &str) -> Result<String, JsonError> {
        JsonText::new(text.as_bytes()).string().map(Cow::into_owned)
    }

    #[test]
    fn strings_end_where_their_quote_stands_wherever_that_is() {
        for length in 0..40 {
            let plain = "é".repeat(length % 3) + &"x".repeat(length);
            assert_eq!(string(&format!("\"{plain}\" more")), Ok(plain.clone()));
            assert_eq!(string(&format!("'{plain}'")), Ok(plain.clone()));
            assert_eq!(string(&format!("\"{plain}\\n\"")), Ok(format!("{plain}\n")));
            assert_eq!(
                string(&format!("\"\\u0001{plain}\\u0002\"")),
                Ok(format!("\u{1}{plain}\u{2}"))
            );
            assert!(string(&format!("\"{plain}")).is_err());
            assert!(string(&format!("\"{plain}\\")).is_err());
        }
    }

    #[test]
    fn escapes() {
        assert_eq!(
            string(r#""\"\\\/\b\f\n\r\t\x""#).unwrap(),
            "\"\\/\u{8}\u{c}\n\r\tx"
        );
        assert_eq!(
            string(r#""\ud83d\ude00 \ud83d \ud83dA""#).unwrap(),
            "😀 \u{fffd} \u{fffd}A"
        );
        assert_eq!(string("\"\\é\"").unwrap(), "é");
        for bad in [r#""\u12""#, r#""\u12x4""#, r#""\u"#, "\"\\"] {
            assert!(string(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bytes_that_are_not_utf_8_become_replacement_characters() {
        let text = b"\"a\xffb\" \"c\\n\xfe\"";
        let mut json = JsonText::new(text);
        assert_eq!(json.string().unwrap(), "a\u{fffd}b");
        json.peek();
        assert_eq!(json.string().unwrap(), "c\n\u{fffd}");
    }

    #[test]
    fn equal_bytes_are_found_exactly() {
        for byte in 0..=255_u8 {
            let others = u64::from(byte ^ 1) * 0x0101_0101_0101_0101;
            assert_eq!(equal_bytes(others, byte), 0);
            for place in 0..8 {
                let word = others ^ (1 << (place * 8));
                assert_eq!(equal_bytes(word, byte), 0x80 << (place * 8));
            }
        }
    }
}
