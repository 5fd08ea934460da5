//! Writing: a serde serializer that puts keys and nulls as the original does.

use serde::Serialize;
use serde::ser::{self, Serializer};

use super::JsonError;
use crate::header_json::{Digits, write_string};

/// How keys that are not strings are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyStyle {
    /// As the original writes almost everywhere: integers without quotes, queues as objects.
    Bare,
    /// Standard JSON in ASCII, as routes are written for peers that ask for it: every key is a string.
    Quoted,
}

pub(super) fn to_vec<T: Serialize + ?Sized>(value: &T, keys: KeyStyle, pretty: bool) -> Vec<u8> {
    let mut writer = Writer {
        out: Vec::with_capacity(256),
        keys,
        pretty,
        depth: 0,
        was_null: false,
    };
    // The only refusals are of types that no body has (byte strings, enum variants with data); for such a type the text
    // so far is what there is to write, and the round-trip tests of the type would show it.
    let _ = value.serialize(&mut writer);
    writer.out
}

struct Writer {
    out: Vec<u8>,
    keys: KeyStyle,
    pretty: bool,
    depth: usize,
    /// The last value was a null, so its member is taken back.
    was_null: bool,
}

impl Writer {
    fn number(&mut self, text: &str) {
        self.was_null = false;
        self.out.extend_from_slice(text.as_bytes());
    }

    fn string(&mut self, text: &str) {
        self.was_null = false;
        if self.keys == KeyStyle::Bare || text.is_ascii() {
            write_string(&mut self.out, text);
            return;
        }
        self.out.push(b'"');
        for character in text.chars() {
            if character.is_ascii() {
                let from = self.out.len();
                write_string(&mut self.out, character.encode_utf8(&mut [0; 4]));
                self.out.pop();
                self.out.remove(from);
                continue;
            }
            for unit in character.encode_utf16(&mut [0; 2]) {
                self.out
                    .extend_from_slice(format!("\\u{unit:04X}").as_bytes());
            }
        }
        self.out.push(b'"');
    }

    fn line(&mut self) {
        if self.pretty {
            self.out.push(b'\n');
            self.out.resize(self.out.len() + self.depth, b'\t');
        }
    }

    fn open(&mut self, bracket: u8) -> Open<'_> {
        self.out.push(bracket);
        self.depth += 1;
        Open {
            close: bracket + 2,
            start: self.out.len(),
            member_from: self.out.len(),
            writer: self,
        }
    }
}

/// An object or array that is being written.
struct Open<'w> {
    writer: &'w mut Writer,
    close: u8,
    start: usize,
    /// Where the current member begins, its comma included.
    member_from: usize,
}

impl Open<'_> {
    /// Comma and line break in front of a member or element. The original breaks no line before the first pair of a map
    /// with integer keys.
    fn next(&mut self, on_new_line: bool) {
        self.member_from = self.writer.out.len();
        if self.writer.out.len() > self.start {
            self.writer.out.push(b',');
            self.writer.line();
        } else if on_new_line {
            self.writer.line();
        }
    }

    fn member(&mut self, name: &str, value: &(impl Serialize + ?Sized)) -> Result<(), JsonError> {
        self.next(true);
        self.writer.string(name);
        self.value(value)
    }

    fn value(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), JsonError> {
        self.writer.out.push(b':');
        value.serialize(&mut *self.writer)?;
        if self.writer.was_null {
            self.writer.out.truncate(self.member_from);
        }
        Ok(())
    }

    fn element(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), JsonError> {
        self.next(true);
        value.serialize(&mut *self.writer)
    }

    fn end(self) {
        self.writer.depth -= 1;
        if self.writer.out.len() > self.start {
            self.writer.line();
        }
        self.writer.out.push(self.close);
        self.writer.was_null = false;
    }
}

macro_rules! integers {
    ($($method:ident $kind:ty;)*) => {$(
        fn $method(self, value: $kind) -> Result<(), JsonError> {
            self.number(Digits::new().format(i64::from(value)));
            Ok(())
        }
    )*};
}

impl<'w> Serializer for &'w mut Writer {
    type Ok = ();
    type Error = JsonError;
    type SerializeSeq = Open<'w>;
    type SerializeTuple = Open<'w>;
    type SerializeTupleStruct = Open<'w>;
    type SerializeTupleVariant = ser::Impossible<(), JsonError>;
    type SerializeMap = Open<'w>;
    type SerializeStruct = Open<'w>;
    type SerializeStructVariant = ser::Impossible<(), JsonError>;

    integers! {
        serialize_i8 i8;
        serialize_i16 i16;
        serialize_i32 i32;
        serialize_i64 i64;
        serialize_u8 u8;
        serialize_u16 u16;
        serialize_u32 u32;
    }

    fn serialize_u64(self, value: u64) -> Result<(), JsonError> {
        self.number(&value.to_string());
        Ok(())
    }

    fn serialize_bool(self, value: bool) -> Result<(), JsonError> {
        self.number(if value { "true" } else { "false" });
        Ok(())
    }

    fn serialize_f32(self, value: f32) -> Result<(), JsonError> {
        self.serialize_f64(f64::from(value))
    }

    fn serialize_f64(self, value: f64) -> Result<(), JsonError> {
        if !value.is_finite() {
            return self.serialize_none();
        }
        self.number(&format!("{value:?}"));
        Ok(())
    }

    fn serialize_char(self, value: char) -> Result<(), JsonError> {
        self.string(value.encode_utf8(&mut [0; 4]));
        Ok(())
    }

    fn serialize_str(self, value: &str) -> Result<(), JsonError> {
        self.string(value);
        Ok(())
    }

    fn serialize_bytes(self, _value: &[u8]) -> Result<(), JsonError> {
        Err(ser::Error::custom("bodies have no byte strings"))
    }

    fn serialize_none(self) -> Result<(), JsonError> {
        self.out.extend_from_slice(b"null");
        self.was_null = true;
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), JsonError> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), JsonError> {
        self.serialize_none()
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<(), JsonError> {
        self.serialize_none()
    }

    fn serialize_unit_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
    ) -> Result<(), JsonError> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Result<(), JsonError> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        _variant: &'static str,
        _value: &T,
    ) -> Result<(), JsonError> {
        Err(ser::Error::custom("bodies have no enums with data"))
    }

    fn serialize_seq(self, _len: Option<usize>) -> Result<Open<'w>, JsonError> {
        Ok(self.open(b'['))
    }

    fn serialize_tuple(self, _len: usize) -> Result<Open<'w>, JsonError> {
        Ok(self.open(b'['))
    }

    fn serialize_tuple_struct(
        self,
        _name: &'static str,
        _len: usize,
    ) -> Result<Open<'w>, JsonError> {
        Ok(self.open(b'['))
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        _variant: &'static str,
        _len: usize,
    ) -> Result<Self::SerializeTupleVariant, JsonError> {
        Err(ser::Error::custom("bodies have no enums with data"))
    }

    fn serialize_map(self, _len: Option<usize>) -> Result<Open<'w>, JsonError> {
        Ok(self.open(b'{'))
    }

    fn serialize_struct(self, _name: &'static str, _len: usize) -> Result<Open<'w>, JsonError> {
        Ok(self.open(b'{'))
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        _variant: &'static str,
        _len: usize,
    ) -> Result<Self::SerializeStructVariant, JsonError> {
        Err(ser::Error::custom("bodies have no enums with data"))
    }
}

impl ser::SerializeSeq for Open<'_> {
    type Ok = ();
    type Error = JsonError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), JsonError> {
        self.element(value)
    }

    fn end(self) -> Result<(), JsonError> {
        Open::end(self);
        Ok(())
    }
}

impl ser::SerializeTuple for Open<'_> {
    type Ok = ();
    type Error = JsonError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), JsonError> {
        self.element(value)
    }

    fn end(self) -> Result<(), JsonError> {
        Open::end(self);
        Ok(())
    }
}

impl ser::SerializeTupleStruct for Open<'_> {
    type Ok = ();
    type Error = JsonError;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), JsonError> {
        self.element(value)
    }

    fn end(self) -> Result<(), JsonError> {
        Open::end(self);
        Ok(())
    }
}

impl ser::SerializeStruct for Open<'_> {
    type Ok = ();
    type Error = JsonError;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), JsonError> {
        self.member(name, value)
    }

    fn end(self) -> Result<(), JsonError> {
        Open::end(self);
        Ok(())
    }
}

impl ser::SerializeMap for Open<'_> {
    type Ok = ();
    type Error = JsonError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), JsonError> {
        let mut text = Writer {
            out: Vec::new(),
            keys: self.writer.keys,
            pretty: false,
            depth: 0,
            was_null: false,
        };
        key.serialize(&mut text)?;
        let is_string = text.out.first() == Some(&b'"');
        self.next(is_string);
        if is_string || self.writer.keys == KeyStyle::Bare {
            self.writer.out.extend_from_slice(&text.out);
        } else {
            self.writer.string(&String::from_utf8_lossy(&text.out));
        }
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), JsonError> {
        self.value(value)
    }

    fn end(self) -> Result<(), JsonError> {
        Open::end(self);
        Ok(())
    }
}
