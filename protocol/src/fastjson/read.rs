//! Reading: a serde deserializer over lenient text. Bounds and coercions are [`super`]'s promises.

use std::borrow::Cow;

use serde::Deserializer;
use serde::de::value::StringDeserializer;
use serde::de::{self, DeserializeSeed, IntoDeserializer, Visitor};

use super::{DEPTH_MAX, JsonError, VALUES_MAX};
use crate::json_text::JsonText;

pub(super) struct Reader<'a> {
    text: JsonText<'a>,
    depth: usize,
    values_left: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self::nested(text, 0, VALUES_MAX)
    }

    fn nested(text: &'a [u8], depth: usize, values_left: usize) -> Self {
        Self {
            text: JsonText::new(text),
            depth,
            values_left,
        }
    }

    /// Nothing but blanks may follow.
    pub(super) fn end(&mut self) -> Result<(), JsonError> {
        match self.text.peek() {
            None => Ok(()),
            Some(_) => Err(self.text.error("text behind the value")),
        }
    }

    fn count_value(&mut self) -> Result<(), JsonError> {
        self.values_left = self
            .values_left
            .checked_sub(1)
            .ok_or_else(|| self.text.error("too many values"))?;
        Ok(())
    }

    fn enter(&mut self) -> Result<(), JsonError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.text.error("nested too deeply"));
        }
        self.text.step();
        Ok(())
    }

    /// Steps over a bare `null`, if one is next.
    fn null(&mut self) -> bool {
        if self.text.peek() != Some(b'n') {
            return false;
        }
        let mut ahead = self.text.clone();
        let is_null = ahead.bare() == Ok("null");
        if is_null {
            self.text = ahead;
        }
        is_null
    }

    /// A scalar as text; an object or array gives its own text, which is what the original puts into a string.
    fn scalar(&mut self) -> Result<Cow<'a, str>, JsonError> {
        if matches!(self.text.peek(), Some(b'{' | b'[')) {
            let from = self.text.at();
            self.skip()?;
            return Ok(String::from_utf8_lossy(self.text.since(from)));
        }
        self.count_value()?;
        self.text.word()
    }

    fn skip(&mut self) -> Result<(), JsonError> {
        de::IgnoredAny::visit_any(self)
    }

    /// An integer; a fraction of zero is forgiven.
    fn integer(&mut self) -> Result<i128, JsonError> {
        if self.null() {
            return Ok(0);
        }
        let from = self.text.at();
        let word = self.scalar()?;
        parse_integer(&word).ok_or(JsonError::Syntax {
            reason: "not an integer",
            at: from,
        })
    }
}

fn parse_integer(word: &str) -> Option<i128> {
    let word = word.trim();
    if word.is_empty() {
        return Some(0);
    }
    let whole = match word.split_once('.') {
        Some((whole, zeros)) if zeros.bytes().all(|b| b == b'0') => whole,
        Some(_) => return None,
        None => word,
    };
    whole.parse().ok()
}

/// Ignoring must not recurse through serde for every level, but may as well: depth is bounded.
trait VisitAny<'a> {
    fn visit_any(reader: &mut Reader<'a>) -> Result<(), JsonError>;
}

impl<'a> VisitAny<'a> for de::IgnoredAny {
    fn visit_any(reader: &mut Reader<'a>) -> Result<(), JsonError> {
        <Self as de::Deserialize<'_>>::deserialize(reader).map(|_| ())
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $kind:ty;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
            let value = self.integer()?;
            let fits = <$kind>::try_from(value).map_err(|_| self.text.error("number out of range"))?;
            visitor.$visit(fits)
        }
    )*};
}

impl<'de> Deserializer<'de> for &mut Reader<'_> {
    type Error = JsonError;

    integers! {
        deserialize_i8 visit_i8 i8;
        deserialize_i16 visit_i16 i16;
        deserialize_i32 visit_i32 i32;
        deserialize_i64 visit_i64 i64;
        deserialize_i128 visit_i128 i128;
        deserialize_u8 visit_u8 u8;
        deserialize_u16 visit_u16 u16;
        deserialize_u32 visit_u32 u32;
        deserialize_u64 visit_u64 u64;
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        if self.null() {
            self.count_value()?;
            return visitor.visit_unit();
        }
        match self.text.peek() {
            Some(b'{') => self.deserialize_map(visitor),
            Some(b'[') => self.deserialize_seq(visitor),
            Some(b'"' | b'\'') => self.deserialize_str(visitor),
            _ => {
                self.count_value()?;
                let word = self.text.bare()?;
                match word {
                    "true" => visitor.visit_bool(true),
                    "false" => visitor.visit_bool(false),
                    _ => {
                        if let Ok(number) = word.parse::<i64>() {
                            visitor.visit_i64(number)
                        } else if let Ok(number) = word.parse::<u64>() {
                            visitor.visit_u64(number)
                        } else if let Ok(number) = word.parse::<f64>() {
                            visitor.visit_f64(number)
                        } else {
                            visitor.visit_string(word.to_owned())
                        }
                    }
                }
            }
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        if self.null() {
            return visitor.visit_bool(false);
        }
        let word = self.scalar()?;
        match word.trim() {
            "true" | "TRUE" | "True" | "1" => visitor.visit_bool(true),
            "false" | "FALSE" | "False" | "0" | "" => visitor.visit_bool(false),
            _ => Err(self.text.error("not a boolean")),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        if self.null() {
            return visitor.visit_f64(0.0);
        }
        let word = self.scalar()?;
        match word.trim().parse::<f64>() {
            Ok(number) if number.is_finite() => visitor.visit_f64(number),
            _ => Err(self.text.error("not a number")),
        }
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        if self.null() {
            return visitor.visit_str("");
        }
        match self.scalar()? {
            Cow::Borrowed(text) => visitor.visit_str(text),
            Cow::Owned(text) => visitor.visit_string(text),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        if self.null() {
            self.count_value()?;
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        self.skip()?;
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        self.count_value()?;
        if self.null() {
            return visitor.visit_seq(de::value::SeqDeserializer::<_, JsonError>::new(
                std::iter::empty::<bool>(),
            ));
        }
        if self.text.peek() != Some(b'[') {
            return Err(self.text.error("expected an array"));
        }
        self.enter()?;
        let value = visitor.visit_seq(Elements(&mut *self))?;
        self.text
            .expect(b']', "expected a comma or the end of the array")?;
        self.depth -= 1;
        Ok(value)
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        self.count_value()?;
        if self.null() {
            return visitor.visit_map(de::value::MapDeserializer::<_, JsonError>::new(
                std::iter::empty::<(bool, bool)>(),
            ));
        }
        if self.text.peek() != Some(b'{') {
            return Err(self.text.error("expected an object"));
        }
        self.enter()?;
        let value = visitor.visit_map(Members(&mut *self))?;
        self.text
            .expect(b'}', "expected a comma or the end of the object")?;
        self.depth -= 1;
        Ok(value)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        let name = self.scalar()?.into_owned();
        let name: StringDeserializer<JsonError> = name.into_deserializer();
        visitor.visit_enum(name)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self.text.peek() {
            Some(b'{') => self.deserialize_map(visitor),
            Some(b'[') => self.deserialize_seq(visitor),
            _ => {
                self.scalar()?;
                visitor.visit_unit()
            }
        }
    }
}

struct Elements<'r, 'a>(&'r mut Reader<'a>);

impl<'de> de::SeqAccess<'de> for Elements<'_, '_> {
    type Error = JsonError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, JsonError> {
        while self.0.text.peek() == Some(b',') {
            self.0.text.step();
        }
        match self.0.text.peek() {
            Some(b']') => Ok(None),
            Some(_) => seed.deserialize(&mut *self.0).map(Some),
            None => Err(self.0.text.error("array is cut")),
        }
    }
}

struct Members<'r, 'a>(&'r mut Reader<'a>);

impl<'de> de::MapAccess<'de> for Members<'_, '_> {
    type Error = JsonError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, JsonError> {
        while self.0.text.peek() == Some(b',') {
            self.0.text.step();
        }
        match self.0.text.peek() {
            Some(b'}') => Ok(None),
            Some(b'{' | b'[') => seed.deserialize(&mut *self.0).map(Some),
            Some(_) => {
                let word = self.0.text.word()?;
                let key = Key {
                    word,
                    depth: self.0.depth,
                    values_left: self.0.values_left,
                };
                seed.deserialize(key).map(Some)
            }
            None => Err(self.0.text.error("object is cut")),
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, JsonError> {
        self.0.text.expect(b':', "expected a colon")?;
        seed.deserialize(&mut *self.0)
    }
}

/// A key that was a string or a bare word. What a type asks for is read from its text.
struct Key<'a> {
    word: Cow<'a, str>,
    depth: usize,
    values_left: usize,
}

macro_rules! from_text {
    ($($method:ident $($name:ident: $kind:ty),*;)*) => {$(
        fn $method<V: Visitor<'de>>(self, $($name: $kind,)* visitor: V) -> Result<V::Value, JsonError> {
            Reader::nested(self.word.as_bytes(), self.depth, self.values_left)
                .$method($($name,)* visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for Key<'_> {
    type Error = JsonError;

    from_text! {
        deserialize_bool;
        deserialize_i8;
        deserialize_i16;
        deserialize_i32;
        deserialize_i64;
        deserialize_u8;
        deserialize_u16;
        deserialize_u32;
        deserialize_u64;
        deserialize_f32;
        deserialize_f64;
        deserialize_map;
        deserialize_struct _name: &'static str, _fields: &'static [&'static str];
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self.word {
            Cow::Borrowed(text) => visitor.visit_str(text),
            Cow::Owned(text) => visitor.visit_string(text),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        let name: StringDeserializer<JsonError> = self.word.into_owned().into_deserializer();
        visitor.visit_enum(name)
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct identifier ignored_any
    }
}
