//! A frame: is a whole one here, and what does it say? Works on slices; copies nothing.
//!
//! The layout is drawn at the crate's root. Source: spec/wire.md §1.1; Apache `NettyDecoder`, `RemotingCommand`.

use std::borrow::Cow;

use thiserror::Error;

use crate::command::Command;
use crate::ext_fields::ExtFields;
use crate::{header_binary, header_json};

/// The longest frame a peer accepts, its length word included (`com.rocketmq.remoting.frameMaxLength`).
pub const FRAME_BYTES_MAX: usize = 16_777_216;

/// Bytes of the length word.
pub const LENGTH_BYTES: usize = 4;

/// Bytes of the length word and the header word.
pub const PREFIX_BYTES: usize = LENGTH_BYTES + 4;

/// `flag` bit 0: this frame answers a request.
pub const FLAG_RESPONSE: i32 = 1;

/// `flag` bit 1: the sender expects no answer.
pub const FLAG_ONE_WAY: i32 = 2;

/// How a header is written. Chosen by each sender; every receiver accepts both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SerializeType {
    /// A JSON object.
    #[default]
    Json,
    /// The compact binary form, named ROCKETMQ by the original.
    Rocketmq,
}

impl SerializeType {
    /// The byte in the header word.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Json => 0,
            Self::Rocketmq => 1,
        }
    }
}

/// Why bytes are not a frame. The connection they came from is closed; nothing is answered.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The length word is below the four bytes of the header word, or negative.
    #[error("frame length {0} is too small")]
    TooShort(i32),
    /// Over [`FRAME_BYTES_MAX`].
    #[error("frame of {0} bytes is over the limit of {FRAME_BYTES_MAX}")]
    TooLong(usize),
    /// The header claims more bytes than its frame has.
    #[error("header of {header} bytes does not fit its frame of {frame} bytes")]
    HeaderTooLong {
        /// Announced length of the header.
        header: usize,
        /// Bytes the frame has for header and body.
        frame: usize,
    },
    /// Neither JSON nor ROCKETMQ.
    #[error("unknown serialize type {0}")]
    SerializeType(u8),
    /// The header itself cannot be read.
    #[error("header does not parse: {0}")]
    Header(&'static str),
}

/// What stands at the start of the bytes read so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Split<'a> {
    /// A whole frame, and the bytes it takes, length word included.
    Whole(RawFrame<'a>, usize),
    /// Not yet whole: it takes this many bytes in all (at least 4, as long as the length word is not here).
    Partial(usize),
}

/// The parts of a whole frame, its header not yet read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawFrame<'a> {
    /// How the header is written.
    pub serialize: SerializeType,
    /// Bytes of the header.
    pub header: &'a [u8],
    /// Bytes behind the header; empty means "no body".
    pub body: &'a [u8],
}

/// Looks for a whole frame at the start of `input`.
///
/// # Errors
/// [`FrameError`] as soon as the length or header word is impossible, before the frame is complete.
pub fn split(input: &[u8]) -> Result<Split<'_>, FrameError> {
    let Some(length_word) = be_i32(input, 0) else {
        return Ok(Split::Partial(LENGTH_BYTES));
    };
    if length_word < 4 {
        return Err(FrameError::TooShort(length_word));
    }
    let length = usize::try_from(length_word).map_err(|_| FrameError::TooShort(length_word))?;
    let total = LENGTH_BYTES + length;
    if total > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong(total));
    }
    let Some(&[kind, high, middle, low]) = input.get(LENGTH_BYTES..PREFIX_BYTES) else {
        return Ok(Split::Partial(total));
    };
    let serialize = match kind {
        0 => SerializeType::Json,
        1 => SerializeType::Rocketmq,
        other => return Err(FrameError::SerializeType(other)),
    };
    let header_bytes = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
    if header_bytes > length - 4 {
        return Err(FrameError::HeaderTooLong {
            header: header_bytes,
            frame: length - 4,
        });
    }
    let Some(rest) = input.get(PREFIX_BYTES..total) else {
        return Ok(Split::Partial(total));
    };
    let (header, body) = rest.split_at(header_bytes);
    Ok(Split::Whole(
        RawFrame {
            serialize,
            header,
            body,
        },
        total,
    ))
}

/// A frame whose header was read; it borrows from the bytes it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame<'a> {
    /// How the header was written, and so how an answer is written.
    pub serialize: SerializeType,
    /// Request code, or response code in an answer.
    pub code: i32,
    /// The sender's language (spec/wire.md §2.2); 7 is "other".
    pub language: u8,
    /// The sender's MQVersion ordinal (spec/wire.md §2.3).
    pub version: i32,
    /// Correlation id, chosen by the requester.
    pub opaque: i32,
    /// [`FLAG_RESPONSE`] and [`FLAG_ONE_WAY`].
    pub flag: i32,
    /// Error text or status name.
    pub remark: Option<Cow<'a, str>>,
    /// The custom header.
    pub ext: ExtFields<'a>,
    /// Empty means "no body".
    pub body: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads the header.
    ///
    /// # Errors
    /// [`FrameError::Header`].
    pub fn decode(raw: RawFrame<'a>) -> Result<Self, FrameError> {
        match raw.serialize {
            SerializeType::Json => header_json::decode(raw.header, raw.body),
            SerializeType::Rocketmq => header_binary::decode(raw.header, raw.body),
        }
    }

    /// This frame answers a request of ours.
    #[must_use]
    pub fn is_response(&self) -> bool {
        self.flag & FLAG_RESPONSE != 0
    }

    /// The sender expects no answer, not even an error.
    #[must_use]
    pub fn is_one_way(&self) -> bool {
        self.flag & FLAG_ONE_WAY != 0
    }

    /// The same frame, owned, so that it outlives the read buffer.
    #[must_use]
    pub fn to_command(&self) -> Command {
        Command {
            serialize: self.serialize,
            code: self.code,
            language: self.language,
            version: self.version,
            opaque: self.opaque,
            flag: self.flag,
            remark: self.remark.as_deref().map(str::to_owned),
            ext: self.ext.clone().into_owned(),
            body: bytes::Bytes::copy_from_slice(self.body),
        }
    }
}

/// A big-endian i32 at `at`, if it is there.
pub(crate) fn be_i32(bytes: &[u8], at: usize) -> Option<i32> {
    let raw = bytes.get(at..at.checked_add(4)?)?;
    Some(i32::from_be_bytes(raw.try_into().ok()?))
}

/// A big-endian i16 at `at`, if it is there.
pub(crate) fn be_i16(bytes: &[u8], at: usize) -> Option<i16> {
    let raw = bytes.get(at..at.checked_add(2)?)?;
    Some(i16::from_be_bytes(raw.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_word_alone_says_how_much_is_missing() {
        assert_eq!(split(&[]), Ok(Split::Partial(4)));
        assert_eq!(split(&[0, 0, 0]), Ok(Split::Partial(4)));
        assert_eq!(split(&[0, 0, 0, 10]), Ok(Split::Partial(14)));
    }

    #[test]
    fn impossible_lengths_are_refused_before_the_frame_is_complete() {
        assert_eq!(split(&[0, 0, 0, 3]), Err(FrameError::TooShort(3)));
        assert_eq!(
            split(&[0xff, 0xff, 0xff, 0xff]),
            Err(FrameError::TooShort(-1))
        );
        assert_eq!(split(&[1, 0, 0, 0]), Err(FrameError::TooLong(16_777_220)));
        assert_eq!(
            split(&[0, 0xff, 0xff, 0xfc]),
            Ok(Split::Partial(FRAME_BYTES_MAX))
        );
        assert_eq!(split(&[0, 0, 0, 8, 9]), Ok(Split::Partial(12)));
        assert_eq!(
            split(&[0, 0, 0, 8, 9, 0, 0, 0]),
            Err(FrameError::SerializeType(9))
        );
        assert_eq!(
            split(&[0, 0, 0, 8, 0, 0, 0, 5]),
            Err(FrameError::HeaderTooLong {
                header: 5,
                frame: 4
            })
        );
    }

    #[test]
    fn a_whole_frame_leaves_the_rest_alone() {
        let bytes = [0, 0, 0, 7, 0, 0, 0, 2, b'{', b'}', b'x', 9, 9];
        let Ok(Split::Whole(raw, used)) = split(&bytes) else {
            panic!("not whole")
        };
        assert_eq!((raw.header, raw.body, used), (&b"{}"[..], &b"x"[..], 11));
    }
}
