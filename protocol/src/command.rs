//! A frame that owns its parts: what clients send and receive, and what leaves the read buffer for later.

use std::sync::atomic::{AtomicI32, Ordering};

use bytes::Bytes;

use crate::ext_fields::{ExtFields, HeaderError};
use crate::frame::{FLAG_ONE_WAY, FLAG_RESPONSE, SerializeType};
use crate::frame_writer::FrameWriter;
use crate::headers::Header;
use crate::request_code::RequestCode;
use crate::response_code::ResponseCode;

/// MQVersion ordinal of release 5.3.3, which we answer and ask with.
pub const VERSION_5_3_3: i32 = 479;

/// Language code of Rust clients (spec/wire.md §2.2).
pub const LANGUAGE_RUST: u8 = 12;

/// Language code of the original; our servers announce it, since old clients know only some names.
pub const LANGUAGE_JAVA: u8 = 0;

/// A request or an answer with everything in it owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// How the header was or will be written.
    pub serialize: SerializeType,
    /// Request code, or response code in an answer.
    pub code: i32,
    /// The sender's language.
    pub language: u8,
    /// The sender's MQVersion ordinal.
    pub version: i32,
    /// Correlation id.
    pub opaque: i32,
    /// Response and one-way bits.
    pub flag: i32,
    /// Error text or status name.
    pub remark: Option<String>,
    /// The custom header.
    pub ext: ExtFields<'static>,
    /// Empty means "no body".
    pub body: Bytes,
}

static NEXT_OPAQUE: AtomicI32 = AtomicI32::new(1);

impl Command {
    /// A request with a fresh opaque, JSON header, no fields and no body.
    #[must_use]
    pub fn request(code: RequestCode) -> Self {
        Self {
            serialize: SerializeType::Json,
            code: code.number(),
            language: LANGUAGE_RUST,
            version: VERSION_5_3_3,
            opaque: NEXT_OPAQUE.fetch_add(1, Ordering::Relaxed),
            flag: 0,
            remark: None,
            ext: ExtFields::new(),
            body: Bytes::new(),
        }
    }

    /// An answer; its opaque is set from the request by [`Command::answering`].
    #[must_use]
    pub fn response(code: ResponseCode, remark: impl Into<Option<String>>) -> Self {
        Self {
            serialize: SerializeType::Json,
            code: code.number(),
            language: LANGUAGE_JAVA,
            version: VERSION_5_3_3,
            opaque: 0,
            flag: FLAG_RESPONSE,
            remark: remark.into(),
            ext: ExtFields::new(),
            body: Bytes::new(),
        }
    }

    /// Success without fields or body.
    #[must_use]
    pub fn success() -> Self {
        Self::response(ResponseCode::Success, None)
    }

    /// Takes opaque and header form from the request that is answered.
    #[must_use]
    pub fn answering(mut self, opaque: i32, serialize: SerializeType) -> Self {
        self.opaque = opaque;
        self.serialize = serialize;
        self
    }

    /// Adds the fields of a typed header.
    #[must_use]
    pub fn with_header(mut self, header: &impl Header) -> Self {
        header.write(&mut self.ext);
        self
    }

    /// Adds one field.
    #[must_use]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers pass numbers and string slices; a reference would only add noise"
    )]
    pub fn with_ext(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.ext.set(name.into(), value.to_string());
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Marks a request as one that is not answered.
    #[must_use]
    pub fn one_way(mut self) -> Self {
        self.flag |= FLAG_ONE_WAY;
        self
    }

    /// This answers a request.
    #[must_use]
    pub fn is_response(&self) -> bool {
        self.flag & FLAG_RESPONSE != 0
    }

    /// The sender expects no answer.
    #[must_use]
    pub fn is_one_way(&self) -> bool {
        self.flag & FLAG_ONE_WAY != 0
    }

    /// The response code, if this is an answer whose code is known.
    #[must_use]
    pub fn response_code(&self) -> Option<ResponseCode> {
        ResponseCode::from_number(self.code)
    }

    /// An answer with code 0.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.code == ResponseCode::Success.number()
    }

    /// Reads a typed header.
    ///
    /// # Errors
    /// [`HeaderError`] when a required field is missing or does not parse.
    pub fn header<'e, H: crate::headers::DecodeHeader<'e>>(&'e self) -> Result<H, HeaderError> {
        H::decode(&self.ext)
    }

    /// Appends the frame without its body: the length word counts [`Command::body`], which follows in the same
    /// vectored write.
    pub fn encode_head(&self, out: &mut Vec<u8>) {
        let mut writer = FrameWriter::begin(
            out,
            self.serialize,
            self.code,
            self.language,
            self.version,
            self.opaque,
            self.flag,
            self.remark.as_deref(),
        );
        for (name, value) in self.ext.iter() {
            writer.field(name, value);
        }
        writer.finish(self.body.len());
    }

    /// The whole frame in one buffer.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256 + self.body.len());
        self.encode_head(&mut out);
        out.extend_from_slice(&self.body);
        out
    }
}
