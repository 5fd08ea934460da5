//! The header in the compact binary encoding (serialize type ROCKETMQ).
//!
//! ```text
//! i16 code | i8 language | i16 version | i32 opaque | i32 flag | i32 remarkLen | remark | i32 extLen | ext
//! ext = repeated { i16 keyLen | key | i32 valueLen | value }
//! ```
//! Source: spec/wire.md §1.2. A value of no bytes means "absent" here.

use std::borrow::Cow;

use crate::ext_fields::{ExtFields, Text};
use crate::frame::{Frame, FrameError, SerializeType, be_i16, be_i32};

/// Reads a header; bytes behind its ext map are tolerated.
pub(crate) fn decode<'a>(header: &'a [u8], body: &'a [u8]) -> Result<Frame<'a>, FrameError> {
    let mut at = Cursor {
        bytes: header,
        at: 0,
    };
    let code = i32::from(at.i16("code is cut")?);
    let language = at.take(1, "language is cut")?[0];
    let version = i32::from(at.i16("version is cut")?);
    let opaque = at.i32("opaque is cut")?;
    let flag = at.i32("flag is cut")?;
    let remark_bytes = at.length("remark length is impossible")?;
    let remark = at.take(remark_bytes, "remark is cut")?;
    let ext_bytes = at.length("ext length is impossible")?;
    let ext_raw = at.take(ext_bytes, "ext map is cut")?;
    let mut ext = ExtFields::new();
    let mut pairs = Cursor {
        bytes: ext_raw,
        at: 0,
    };
    while pairs.at < ext_raw.len() {
        let key_bytes = usize::try_from(pairs.i16("key length is cut")?)
            .map_err(|_| FrameError::Header("key length is negative"))?;
        let key = pairs.take(key_bytes, "key is cut")?;
        let value_bytes = pairs.length("value length is impossible")?;
        let value = pairs.take(value_bytes, "value is cut")?;
        if !value.is_empty() {
            let name = ext_text(key, &mut ext);
            let value = ext_text(value, &mut ext);
            ext.push_texts(name, value);
        }
    }
    Ok(Frame {
        serialize: SerializeType::Rocketmq,
        code,
        language,
        version,
        opaque,
        flag,
        remark: (!remark.is_empty()).then(|| text(remark)),
        ext,
        body,
    })
}

/// Writes everything in front of the ext length word. A code beyond 16 bits is cut, as the format demands.
pub(crate) fn write_fixed(
    out: &mut Vec<u8>,
    code: i32,
    language: u8,
    version: i32,
    opaque: i32,
    flag: i32,
    remark: Option<&str>,
) {
    out.extend_from_slice(&code.to_be_bytes()[2..]);
    out.push(language);
    out.extend_from_slice(&version.to_be_bytes()[2..]);
    out.extend_from_slice(&opaque.to_be_bytes());
    out.extend_from_slice(&flag.to_be_bytes());
    let remark = remark.unwrap_or_default();
    out.extend_from_slice(&u32::try_from(remark.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(remark.as_bytes());
}

/// Writes one pair. A name of 32 KiB or more, which the format cannot hold, is left out.
pub(crate) fn write_field(out: &mut Vec<u8>, name: &str, value: &str) {
    let (Ok(name_bytes), Ok(value_bytes)) = (i16::try_from(name.len()), i32::try_from(value.len()))
    else {
        return;
    };
    out.reserve(name.len() + value.len() + 6);
    out.extend_from_slice(&name_bytes.to_be_bytes());
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(&value_bytes.to_be_bytes());
    out.extend_from_slice(value.as_bytes());
}

fn ext_text<'a>(bytes: &'a [u8], ext: &mut ExtFields<'a>) -> Text<'a> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Text::Borrowed(text),
        Err(_) => ext.append(&String::from_utf8_lossy(bytes)),
    }
}

/// Text as Java reads it: bytes that are not UTF-8 become replacement characters.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize, cut: &'static str) -> Result<&'a [u8], FrameError> {
        let end = self.at.checked_add(count).ok_or(FrameError::Header(cut))?;
        let taken = self
            .bytes
            .get(self.at..end)
            .ok_or(FrameError::Header(cut))?;
        self.at = end;
        Ok(taken)
    }

    fn i16(&mut self, cut: &'static str) -> Result<i16, FrameError> {
        let value = be_i16(self.bytes, self.at).ok_or(FrameError::Header(cut))?;
        self.at += 2;
        Ok(value)
    }

    fn i32(&mut self, cut: &'static str) -> Result<i32, FrameError> {
        let value = be_i32(self.bytes, self.at).ok_or(FrameError::Header(cut))?;
        self.at += 4;
        Ok(value)
    }

    fn length(&mut self, impossible: &'static str) -> Result<usize, FrameError> {
        usize::try_from(self.i32(impossible)?).map_err(|_| FrameError::Header(impossible))
    }
}
