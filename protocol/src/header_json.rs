//! The header as JSON, read with the leniency of the original's parser and written as it writes.
//!
//! Accepted beyond JSON: single quotes, unquoted names, trailing commas, numbers in quotes, booleans and numbers as
//! field values, unknown members. Strings without escapes are borrowed. Source: spec/wire.md §1.1, §1.2.

use std::borrow::Cow;

use crate::ext_fields::{ExtFields, Text};
use crate::fastjson::{DEPTH_MAX, JsonError};
use crate::frame::{Frame, FrameError, SerializeType};
use crate::json_text::JsonText;

/// Names of the languages by code (spec/wire.md §2.2).
pub const LANGUAGE_NAMES: [&str; 14] = [
    "JAVA", "CPP", "DOTNET", "PYTHON", "DELPHI", "ERLANG", "RUBY", "OTHER", "HTTP", "GO", "PHP",
    "OMS", "RUST", "NODE_JS",
];

/// Code of a language that is not in the table.
pub const LANGUAGE_OTHER: u8 = 7;

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
    match read(&mut Reader(JsonText::new(header)), &mut frame) {
        Ok(()) => Ok(frame),
        Err(JsonError::Syntax { reason, .. }) => Err(FrameError::Header(reason)),
        Err(JsonError::Type(_)) => Err(FrameError::Header("not a header object")),
    }
}

fn read<'a>(json: &mut Reader<'a>, frame: &mut Frame<'a>) -> Result<(), JsonError> {
    json.object(|json, name| {
        match name.as_ref() {
            "code" => frame.code = json.int()?,
            "version" => frame.version = json.int()?,
            "opaque" => frame.opaque = json.int()?,
            "flag" => frame.flag = json.int()?,
            "language" => frame.language = language_code(json.scalar()?.as_deref()),
            "remark" => frame.remark = json.scalar()?,
            "extFields" => read_ext(json, &mut frame.ext)?,
            _ => json.skip(0)?,
        }
        Ok(())
    })?;
    match json.0.peek() {
        None => Ok(()),
        Some(_) => Err(json.0.error("text behind the header object")),
    }
}

fn read_ext<'a>(json: &mut Reader<'a>, ext: &mut ExtFields<'a>) -> Result<(), JsonError> {
    if json.0.peek() == Some(b'n') {
        return json.scalar().map(|_| ());
    }
    json.0.expect(b'{', "expected an object")?;
    while json.next_member()? {
        let name = json.ext_text(ext)?;
        json.0.expect(b':', "expected a colon")?;
        let value = json.ext_text(ext)?;
        json.end_of_member()?;
        if let (Some(name), Some(value)) = (name, value) {
            ext.push_texts(name, value);
        }
    }
    Ok(())
}

/// The name of a language code, as bodies and tools have it.
#[must_use]
pub fn language_name(code: u8) -> &'static str {
    LANGUAGE_NAMES
        .get(usize::from(code))
        .copied()
        .unwrap_or("OTHER")
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
    out.extend_from_slice(language_name(language).as_bytes());
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
    out.reserve(text.len() + 2);
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(plain) = rest.iter().position(|&byte| needs_escape(byte)) {
        out.extend_from_slice(&rest[..plain]);
        write_escape(out, rest[plain]);
        rest = &rest[plain + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

fn needs_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

fn write_escape(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match byte {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        other => out.extend_from_slice(&[
            b'\\',
            b'u',
            b'0',
            b'0',
            HEX[usize::from(other >> 4)],
            HEX[usize::from(other & 15)],
        ]),
    }
}

/// Writes one member of `extFields` whose name is ours and needs no escaping.
pub(crate) fn write_known_field(out: &mut Vec<u8>, name: &'static str, value: &str) {
    out.reserve(name.len() + value.len() + 6);
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    write_string(out, value);
}

/// Formats integers on the stack.
#[derive(Debug)]
pub(crate) struct Digits {
    buffer: [u8; 20],
}

/// `00` to `99`.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[b'0'; 2]; 100];
    let mut at = 0;
    let mut tens = b'0';
    while tens <= b'9' {
        let mut ones = b'0';
        while ones <= b'9' {
            pairs[at] = [tens, ones];
            at += 1;
            ones += 1;
        }
        tens += 1;
    }
    pairs
};

impl Digits {
    pub(crate) fn new() -> Self {
        Self { buffer: [0; 20] }
    }

    pub(crate) fn format(&mut self, value: i64) -> &str {
        let mut rest = value.unsigned_abs();
        let mut at = self.buffer.len();
        while rest >= 100 {
            at -= 2;
            self.buffer[at..at + 2].copy_from_slice(pair(rest % 100));
            rest /= 100;
        }
        let [tens, ones] = *pair(rest);
        at -= 1;
        self.buffer[at] = ones;
        if rest >= 10 {
            at -= 1;
            self.buffer[at] = tens;
        }
        if value < 0 {
            at -= 1;
            self.buffer[at] = b'-';
        }
        std::str::from_utf8(&self.buffer[at..]).unwrap_or("0")
    }
}

fn pair(below_hundred: u64) -> &'static [u8; 2] {
    usize::try_from(below_hundred)
        .ok()
        .and_then(|at| PAIRS.get(at))
        .unwrap_or(&PAIRS[0])
}

struct Reader<'a>(JsonText<'a>);

impl<'a> Reader<'a> {
    /// Reads `{ name: value, … }`, calling `member` behind each colon.
    fn object(
        &mut self,
        mut member: impl FnMut(&mut Self, Cow<'a, str>) -> Result<(), JsonError>,
    ) -> Result<(), JsonError> {
        self.0.expect(b'{', "expected an object")?;
        while self.next_member()? {
            let name = self.0.word()?;
            self.0.expect(b':', "expected a colon")?;
            member(self, name)?;
            self.end_of_member()?;
        }
        Ok(())
    }

    /// Steps to the next name, or over the end of the object.
    #[inline]
    fn next_member(&mut self) -> Result<bool, JsonError> {
        loop {
            match self.0.peek() {
                Some(b',') => self.0.step(),
                Some(b'}') => {
                    self.0.step();
                    return Ok(false);
                }
                Some(_) => return Ok(true),
                None => return Err(self.0.error("object is cut")),
            }
        }
    }

    #[inline]
    fn end_of_member(&mut self) -> Result<(), JsonError> {
        match self.0.peek() {
            Some(b',' | b'}') => Ok(()),
            _ => Err(self.0.error("expected a comma or the end of the object")),
        }
    }

    /// A name or value of `extFields`: borrowed if it can be, else kept by `ext`. `None` is null.
    #[inline]
    fn ext_text(&mut self, ext: &mut ExtFields<'a>) -> Result<Option<Text<'a>>, JsonError> {
        if let Some(b'"' | b'\'') = self.0.peek() {
            if let Some(plain) = self.0.plain_string()? {
                return Ok(Some(Text::Borrowed(plain)));
            }
            return ext.write_own(|own| self.0.unescape_string(own)).map(Some);
        }
        Ok(match self.scalar()? {
            None => None,
            Some(Cow::Borrowed(text)) => Some(Text::Borrowed(text)),
            Some(Cow::Owned(text)) => Some(ext.append(&text)),
        })
    }

    /// A string, number, boolean or null (`None`), as text.
    #[inline]
    fn scalar(&mut self) -> Result<Option<Cow<'a, str>>, JsonError> {
        match self.0.peek() {
            Some(b'"' | b'\'') => self.0.string().map(Some),
            Some(b'{' | b'[') => {
                let from = self.0.at();
                self.skip(0)?;
                Ok(Some(String::from_utf8_lossy(self.0.since(from))))
            }
            _ => {
                let word = self.0.bare()?;
                Ok((word != "null").then_some(Cow::Borrowed(word)))
            }
        }
    }

    fn int(&mut self) -> Result<i32, JsonError> {
        match self.scalar()? {
            None => Ok(0),
            Some(text) => text
                .parse()
                .or_else(|_| text.trim().parse())
                .map_err(|_| self.0.error("number out of range or not a number")),
        }
    }

    /// Steps over any value.
    fn skip(&mut self, depth: usize) -> Result<(), JsonError> {
        if depth > DEPTH_MAX {
            return Err(self.0.error("nested too deeply"));
        }
        match self.0.peek() {
            Some(b'{') => self.object(|json, _| json.skip(depth + 1)),
            Some(b'[') => {
                self.0.step();
                loop {
                    match self.0.peek() {
                        Some(b']') => {
                            self.0.step();
                            return Ok(());
                        }
                        Some(b',') => self.0.step(),
                        Some(_) => self.skip(depth + 1)?,
                        None => return Err(self.0.error("array is cut")),
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
        for value in (-1010..1010).chain([1_795_224_012_345, i64::MAX, i64::MIN]) {
            assert_eq!(digits.format(value), value.to_string());
        }
    }
}
