//! The header as JSON, read with the leniency of the original's parser and written as it writes.
//!
//! Accepted beyond JSON: single quotes, unquoted names, trailing commas, numbers in quotes, booleans and numbers as
//! field values, unknown members. Strings without escapes are borrowed. Source: spec/wire.md §1.1, §1.2.

use std::borrow::Cow;

use crate::ext_fields::ExtFields;
use crate::frame::{Frame, FrameError, SerializeType};

/// Names of the languages by code (spec/wire.md §2.2).
pub const LANGUAGE_NAMES: [&str; 14] = [
    "JAVA", "CPP", "DOTNET", "PYTHON", "DELPHI", "ERLANG", "RUBY", "OTHER", "HTTP", "GO", "PHP",
    "OMS", "RUST", "NODE_JS",
];

/// Code of a language that is not in the table.
pub const LANGUAGE_OTHER: u8 = 7;

/// How deep an unknown member may nest.
const DEPTH_MAX: usize = 64;

/// Reads a header object.
pub(crate) fn decode<'a>(header: &'a [u8], body: &'a [u8]) -> Result<Frame<'a>, FrameError> {
    let mut frame = Frame {
        serialize: SerializeType::Json,
        code: 0,
        language: LANGUAGE_OTHER,
        version: 0,
        opaque: 0,
        flag: 0,
        remark: None,
        ext: ExtFields::new(),
        body,
    };
    let mut json = Reader {
        bytes: header,
        at: 0,
    };
    json.object(|json, name| {
        match name.as_ref() {
            "code" => frame.code = json.int()?,
            "version" => frame.version = json.int()?,
            "opaque" => frame.opaque = json.int()?,
            "flag" => frame.flag = json.int()?,
            "language" => frame.language = language_code(json.scalar()?.as_deref()),
            "remark" => frame.remark = json.scalar()?,
            "extFields" => {
                if json.peek() == Some(b'n') {
                    json.scalar()?;
                } else {
                    json.object(|json, key| {
                        if let Some(value) = json.scalar()? {
                            frame.ext.push(key, value);
                        }
                        Ok(())
                    })?;
                }
            }
            _ => json.skip(0)?,
        }
        Ok(())
    })?;
    json.space();
    if json.at < header.len() {
        return Err(FrameError::Header("text behind the header object"));
    }
    Ok(frame)
}

fn language_code(text: Option<&str>) -> u8 {
    let Some(text) = text else {
        return LANGUAGE_OTHER;
    };
    LANGUAGE_NAMES
        .iter()
        .position(|name| *name == text)
        .and_then(|at| u8::try_from(at).ok())
        .or_else(|| text.parse().ok())
        .unwrap_or(LANGUAGE_OTHER)
}

/// Writes everything in front of `extFields`; the object stays open.
pub(crate) fn write_fixed(
    out: &mut Vec<u8>,
    code: i32,
    language: u8,
    version: i32,
    opaque: i32,
    flag: i32,
    remark: Option<&str>,
) {
    let mut digits = Digits::new();
    out.extend_from_slice(b"{\"code\":");
    out.extend_from_slice(digits.format(code.into()).as_bytes());
    out.extend_from_slice(b",\"flag\":");
    out.extend_from_slice(digits.format(flag.into()).as_bytes());
    out.extend_from_slice(b",\"language\":\"");
    out.extend_from_slice(
        LANGUAGE_NAMES
            .get(usize::from(language))
            .unwrap_or(&"OTHER")
            .as_bytes(),
    );
    out.extend_from_slice(b"\",\"opaque\":");
    out.extend_from_slice(digits.format(opaque.into()).as_bytes());
    if let Some(remark) = remark {
        out.extend_from_slice(b",\"remark\":");
        write_string(out, remark);
    }
    out.extend_from_slice(b",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":");
    out.extend_from_slice(digits.format(version.into()).as_bytes());
}

/// Writes a quoted, escaped string.
pub(crate) fn write_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut plain_from = 0;
    let bytes = text.as_bytes();
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[plain_from..at]);
        plain_from = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            other => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(other >> 4)]);
                out.push(HEX[usize::from(other & 15)]);
            }
        }
    }
    out.extend_from_slice(&bytes[plain_from..]);
    out.push(b'"');
}

/// Formats integers on the stack.
#[derive(Debug)]
pub(crate) struct Digits {
    buffer: [u8; 20],
}

impl Digits {
    pub(crate) fn new() -> Self {
        Self { buffer: [0; 20] }
    }

    pub(crate) fn format(&mut self, value: i64) -> &str {
        let mut rest = value.unsigned_abs();
        let mut at = self.buffer.len();
        loop {
            at -= 1;
            self.buffer[at] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if value < 0 {
            at -= 1;
            self.buffer[at] = b'-';
        }
        std::str::from_utf8(&self.buffer[at..]).unwrap_or("0")
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn space(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&mut self) -> Option<u8> {
        self.space();
        self.bytes.get(self.at).copied()
    }

    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), FrameError> {
        if self.peek() == Some(byte) {
            self.at += 1;
            return Ok(());
        }
        Err(FrameError::Header(what))
    }

    /// Reads `{ name: value, … }`, calling `member` behind each colon.
    fn object(
        &mut self,
        mut member: impl FnMut(&mut Self, Cow<'a, str>) -> Result<(), FrameError>,
    ) -> Result<(), FrameError> {
        self.expect(b'{', "expected an object")?;
        loop {
            match self.peek() {
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b',') => self.at += 1,
                Some(_) => {
                    let name = self.name()?;
                    self.expect(b':', "expected a colon")?;
                    member(self, name)?;
                    if !matches!(self.peek(), Some(b',' | b'}')) {
                        return Err(FrameError::Header(
                            "expected a comma or the end of the object",
                        ));
                    }
                }
                None => return Err(FrameError::Header("object is cut")),
            }
        }
    }

    fn name(&mut self) -> Result<Cow<'a, str>, FrameError> {
        match self.peek() {
            Some(b'"' | b'\'') => self.string(),
            _ => self.bare().map(Cow::Borrowed),
        }
    }

    /// A string, number, boolean or null (`None`), as text.
    fn scalar(&mut self) -> Result<Option<Cow<'a, str>>, FrameError> {
        match self.peek() {
            Some(b'"' | b'\'') => self.string().map(Some),
            Some(b'{' | b'[') => {
                let from = self.at;
                self.skip(0)?;
                Ok(Some(String::from_utf8_lossy(&self.bytes[from..self.at])))
            }
            _ => self
                .bare()
                .map(|text| (text != "null").then_some(Cow::Borrowed(text))),
        }
    }

    fn int(&mut self) -> Result<i32, FrameError> {
        match self.scalar()? {
            None => Ok(0),
            Some(text) => text
                .trim()
                .parse()
                .map_err(|_| FrameError::Header("number out of range or not a number")),
        }
    }

    /// Letters, digits and signs up to the next delimiter.
    fn bare(&mut self) -> Result<&'a str, FrameError> {
        self.space();
        let from = self.at;
        while self.bytes.get(self.at).is_some_and(|b| {
            b.is_ascii_alphanumeric() || matches!(b, b'-' | b'+' | b'.' | b'_' | b'$')
        }) {
            self.at += 1;
        }
        if self.at == from {
            return Err(FrameError::Header("expected a value"));
        }
        std::str::from_utf8(&self.bytes[from..self.at]).map_err(|_| FrameError::Header("not UTF-8"))
    }

    fn string(&mut self) -> Result<Cow<'a, str>, FrameError> {
        let quote = self.bytes[self.at];
        let from = self.at + 1;
        let mut end = from;
        loop {
            match self.bytes.get(end) {
                None => return Err(FrameError::Header("string is cut")),
                Some(b'\\') => return self.escaped_string(quote, from),
                Some(&byte) if byte == quote => break,
                Some(_) => end += 1,
            }
        }
        self.at = end + 1;
        Ok(String::from_utf8_lossy(&self.bytes[from..end]))
    }

    fn escaped_string(&mut self, quote: u8, from: usize) -> Result<Cow<'a, str>, FrameError> {
        const CUT: FrameError = FrameError::Header("string is cut");
        let mut text = Vec::new();
        let mut at = from;
        loop {
            let byte = *self.bytes.get(at).ok_or(CUT)?;
            at += 1;
            if byte == quote {
                break;
            }
            if byte != b'\\' {
                text.push(byte);
                continue;
            }
            let escape = *self.bytes.get(at).ok_or(CUT)?;
            at += 1;
            let character = match escape {
                b'n' => '\n',
                b'r' => '\r',
                b't' => '\t',
                b'b' => '\u{8}',
                b'f' => '\u{c}',
                b'u' => {
                    let unit = self.hex(&mut at)?;
                    if (0xd800..0xdc00).contains(&unit)
                        && self.bytes.get(at..at + 2) == Some(b"\\u")
                    {
                        at += 2;
                        let low = self.hex(&mut at)?;
                        char::from_u32(
                            0x1_0000 + ((unit - 0xd800) << 10) + (low.wrapping_sub(0xdc00) & 0x3ff),
                        )
                        .unwrap_or(char::REPLACEMENT_CHARACTER)
                    } else {
                        char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER)
                    }
                }
                other => char::from(other),
            };
            text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
        self.at = at;
        Ok(Cow::Owned(String::from_utf8_lossy(&text).into_owned()))
    }

    fn hex(&self, at: &mut usize) -> Result<u32, FrameError> {
        const BAD: FrameError = FrameError::Header("bad \\u escape");
        let digits = self.bytes.get(*at..*at + 4).ok_or(BAD)?;
        *at += 4;
        let digits = std::str::from_utf8(digits).map_err(|_| BAD)?;
        u32::from_str_radix(digits, 16).map_err(|_| BAD)
    }

    /// Steps over any value.
    fn skip(&mut self, depth: usize) -> Result<(), FrameError> {
        if depth > DEPTH_MAX {
            return Err(FrameError::Header("nested too deeply"));
        }
        match self.peek() {
            Some(b'{') => {
                let mut result = Ok(());
                self.object(|json, _| {
                    result = json.skip(depth + 1);
                    result.clone()
                })
            }
            Some(b'[') => {
                self.at += 1;
                loop {
                    match self.peek() {
                        Some(b']') => {
                            self.at += 1;
                            return Ok(());
                        }
                        Some(b',') => self.at += 1,
                        Some(_) => self.skip(depth + 1)?,
                        None => return Err(FrameError::Header("array is cut")),
                    }
                }
            }
            _ => self.scalar().map(|_| ()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_original_s_own_header_reads() {
        let text = br#"{"code":105,"extFields":{"topic":"T_basic"},"flag":0,"language":"JAVA","opaque":5,"serializeTypeCurrentRPC":"JSON","version":479}"#;
        let frame = decode(text, b"").unwrap();
        assert_eq!(
            (frame.code, frame.opaque, frame.version, frame.language),
            (105, 5, 479, 0)
        );
        assert_eq!(frame.ext.get("topic"), Some("T_basic"));
    }

    #[test]
    fn leniency_of_the_original() {
        let text = br#" { 'code' : "106", version:1, "x":[1,{"y":[]}], extFields:{"a":true,'b':7,"c":null,"d":"\u00e9\n"}, } "#;
        let frame = decode(text, b"").unwrap();
        assert_eq!((frame.code, frame.version), (106, 1));
        let fields: Vec<_> = frame.ext.iter().collect();
        assert_eq!(fields, [("a", "true"), ("b", "7"), ("d", "é\n")]);
    }

    #[test]
    fn what_is_no_header_object_is_refused() {
        for text in [
            "",
            "null",
            "[]",
            "{",
            "{\"code\":99999999999}",
            "{} x",
            "{\"code\":1",
            "{\"a\"}",
            "{\"a\":\"\\u12\"}",
        ] {
            assert!(decode(text.as_bytes(), b"").is_err(), "{text}");
        }
        let deep = format!("{{\"x\":{}", "[".repeat(100_000));
        assert!(decode(deep.as_bytes(), b"").is_err());
    }

    #[test]
    fn digits_cover_the_extremes() {
        let mut digits = Digits::new();
        for value in [0, 7, -1, i64::MAX, i64::MIN] {
            assert_eq!(digits.format(value), value.to_string());
        }
    }
}
