//! The words of lenient JSON: strings, bare words, delimiters. Shared by headers and bodies; nothing here recurses.
//!
//! Strings without escapes are borrowed; bytes that are not UTF-8 become replacement characters, as in Java.

use std::borrow::Cow;

use crate::fastjson::JsonError;

/// A place in a text.
#[derive(Debug, Clone)]
pub(crate) struct JsonText<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> JsonText<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
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
    pub(crate) fn step(&mut self) {
        self.at += 1;
    }

    pub(crate) fn expect(&mut self, byte: u8, reason: &'static str) -> Result<(), JsonError> {
        if self.peek() == Some(byte) {
            self.at += 1;
            return Ok(());
        }
        Err(self.error(reason))
    }

    /// A quoted string or a bare word, as text.
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
        std::str::from_utf8(&self.bytes[from..self.at]).map_err(|_| self.error("not UTF-8"))
    }

    /// A string; the next byte is its quote.
    pub(crate) fn string(&mut self) -> Result<Cow<'a, str>, JsonError> {
        let quote = *self
            .bytes
            .get(self.at)
            .ok_or_else(|| self.error("expected a string"))?;
        let from = self.at + 1;
        let Some(length) = self.bytes[from..]
            .iter()
            .position(|&byte| byte == quote || byte == b'\\')
        else {
            return Err(self.error("string is cut"));
        };
        let end = from + length;
        if self.bytes[end] == b'\\' {
            return self.escaped_string(quote, from);
        }
        self.at = end + 1;
        Ok(String::from_utf8_lossy(&self.bytes[from..end]))
    }

    fn escaped_string(&mut self, quote: u8, from: usize) -> Result<Cow<'a, str>, JsonError> {
        let mut text = Vec::new();
        let mut at = from;
        loop {
            let byte = self.byte_of_string(at)?;
            at += 1;
            if byte == quote {
                break;
            }
            if byte != b'\\' {
                text.push(byte);
                continue;
            }
            let escape = self.byte_of_string(at)?;
            at += 1;
            let character = match escape {
                b'n' => '\n',
                b'r' => '\r',
                b't' => '\t',
                b'b' => '\u{8}',
                b'f' => '\u{c}',
                b'u' => self.unicode_escape(&mut at)?,
                ascii if ascii.is_ascii() => char::from(ascii),
                other => {
                    text.push(other);
                    continue;
                }
            };
            text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
        self.at = at;
        Ok(Cow::Owned(String::from_utf8_lossy(&text).into_owned()))
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
        let Some(digits) = self.bytes.get(*at..*at + 4) else {
            return Err(bad);
        };
        *at += 4;
        std::str::from_utf8(digits)
            .ok()
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .ok_or(bad)
    }
}
