//! Writes the head of a frame straight into an output buffer, in either header form, without a map in between.

use crate::command::{LANGUAGE_JAVA, VERSION_5_3_3};
use crate::frame::{FLAG_RESPONSE, LENGTH_BYTES, PREFIX_BYTES, SerializeType};
use crate::headers::FieldSink;
use crate::{header_binary, header_json};

/// A frame head that is being written. Fields first, then [`FrameWriter::finish`] with the length of the body.
#[derive(Debug)]
pub struct FrameWriter<'b> {
    out: &'b mut Vec<u8>,
    start: usize,
    serialize: SerializeType,
    /// The JSON form's `extFields` is open.
    has_fields: bool,
    /// Where the binary form's ext length word stands.
    ext_length_at: usize,
}

impl<'b> FrameWriter<'b> {
    /// Starts a frame at the end of `out`.
    #[expect(
        clippy::too_many_arguments,
        reason = "these are the fixed fields of every header"
    )]
    pub fn begin(
        out: &'b mut Vec<u8>,
        serialize: SerializeType,
        code: i32,
        language: u8,
        version: i32,
        opaque: i32,
        flag: i32,
        remark: Option<&str>,
    ) -> Self {
        let start = out.len();
        out.extend_from_slice(&[0; PREFIX_BYTES]);
        let ext_length_at = match serialize {
            SerializeType::Json => {
                header_json::write_fixed(out, code, language, version, opaque, flag, remark);
                0
            }
            SerializeType::Rocketmq => {
                header_binary::write_fixed(out, code, language, version, opaque, flag, remark);
                out.extend_from_slice(&[0; 4]);
                out.len() - 4
            }
        };
        Self {
            out,
            start,
            serialize,
            has_fields: false,
            ext_length_at,
        }
    }

    /// Starts an answer of ours.
    pub fn response(
        out: &'b mut Vec<u8>,
        serialize: SerializeType,
        code: i32,
        opaque: i32,
        remark: Option<&str>,
    ) -> Self {
        Self::begin(
            out,
            serialize,
            code,
            LANGUAGE_JAVA,
            VERSION_5_3_3,
            opaque,
            FLAG_RESPONSE,
            remark,
        )
    }

    /// Adds one field of the custom header, whatever its name.
    pub fn field(&mut self, name: &str, value: &str) {
        match self.serialize {
            SerializeType::Json => {
                self.separate();
                header_json::write_string(self.out, name);
                self.out.push(b':');
                header_json::write_string(self.out, value);
            }
            SerializeType::Rocketmq => header_binary::write_field(self.out, name, value),
        }
    }

    /// What stands in front of a field of the JSON form.
    fn separate(&mut self) {
        self.out.extend_from_slice(if self.has_fields {
            b","
        } else {
            b",\"extFields\":{"
        });
        self.has_fields = true;
    }

    /// Closes the header and fills in the lengths; `body_bytes` bytes of body follow the head.
    pub fn finish(self, body_bytes: usize) {
        match self.serialize {
            SerializeType::Json => {
                self.out
                    .extend_from_slice(if self.has_fields { b"}}" } else { b"}" })
            }
            SerializeType::Rocketmq => {
                let ext_bytes = word(self.out.len() - self.ext_length_at - 4);
                self.out[self.ext_length_at..self.ext_length_at + 4].copy_from_slice(&ext_bytes);
            }
        }
        let header_bytes = self.out.len() - self.start - PREFIX_BYTES;
        let mut header_word = word(header_bytes);
        header_word[0] = self.serialize.code();
        let length_at = self.start;
        self.out[length_at..length_at + LENGTH_BYTES]
            .copy_from_slice(&word(4 + header_bytes + body_bytes));
        self.out[length_at + LENGTH_BYTES..length_at + PREFIX_BYTES].copy_from_slice(&header_word);
    }
}

impl FieldSink for FrameWriter<'_> {
    fn put(&mut self, name: &'static str, value: &str) {
        match self.serialize {
            SerializeType::Json => {
                self.separate();
                header_json::write_known_field(self.out, name, value);
            }
            SerializeType::Rocketmq => header_binary::write_field(self.out, name, value),
        }
    }
}

/// A length as a big-endian word. Lengths here are bounded by the frame limit, far below 2^31.
fn word(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}
