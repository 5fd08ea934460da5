//! Typed custom headers: each a struct whose fields are declared once with their wire names.
//!
//! A header is written into any [`FieldSink`] (a frame that is being encoded, or an owned map) and read from
//! [`ExtFields`], borrowing its strings. One file per family below; every type says which codes use it.

pub mod access;
pub mod admin;
pub mod client;
pub mod group;
pub mod namesrv;
pub mod offsets;
pub mod pop;
pub mod pull;
pub mod query;
pub mod replication;
pub mod send;
pub mod topic;
pub mod transaction;

use crate::ext_fields::{ExtFields, HeaderError, parse_field};
use crate::header_json::Digits;

/// Where the fields of a header go.
pub trait FieldSink {
    /// Takes one field.
    fn put(&mut self, name: &'static str, value: &str);
}

impl FieldSink for ExtFields<'static> {
    fn put(&mut self, name: &'static str, value: &str) {
        self.set(name, value.to_owned());
    }
}

/// A header that can be written.
pub trait Header {
    /// Puts every field that is present.
    fn write(&self, sink: &mut impl FieldSink);
}

/// A header that can be read.
pub trait DecodeHeader<'e>: Sized {
    /// Reads the fields.
    ///
    /// # Errors
    /// [`HeaderError`] when a required field is missing or one does not parse.
    fn decode(ext: &'e ExtFields<'_>) -> Result<Self, HeaderError>;
}

/// The header without fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NoHeader;

impl Header for NoHeader {
    fn write(&self, _sink: &mut impl FieldSink) {}
}

impl DecodeHeader<'_> for NoHeader {
    fn decode(_ext: &ExtFields<'_>) -> Result<Self, HeaderError> {
        Ok(Self)
    }
}

/// A type that a header field can have.
pub trait FieldValue<'e>: Sized {
    /// Reads the field `name` from its text; `None` if it is not there.
    ///
    /// # Errors
    /// [`HeaderError`].
    fn from_text(name: &'static str, text: Option<&'e str>) -> Result<Self, HeaderError>;

    /// Writes the field unless it is absent.
    fn put(&self, name: &'static str, sink: &mut impl FieldSink);
}

impl<'e> FieldValue<'e> for &'e str {
    fn from_text(name: &'static str, text: Option<&'e str>) -> Result<Self, HeaderError> {
        text.ok_or(HeaderError::Missing { field: name })
    }

    fn put(&self, name: &'static str, sink: &mut impl FieldSink) {
        sink.put(name, self);
    }
}

impl<'e> FieldValue<'e> for Option<&'e str> {
    fn from_text(_name: &'static str, text: Option<&'e str>) -> Result<Self, HeaderError> {
        Ok(text)
    }

    fn put(&self, name: &'static str, sink: &mut impl FieldSink) {
        if let Some(text) = self {
            sink.put(name, text);
        }
    }
}

macro_rules! integer_field {
    ($($kind:ty),*) => {$(
        impl<'e> FieldValue<'e> for $kind {
            fn from_text(name: &'static str, text: Option<&'e str>) -> Result<Self, HeaderError> {
                Option::<$kind>::from_text(name, text)?.ok_or(HeaderError::Missing { field: name })
            }

            fn put(&self, name: &'static str, sink: &mut impl FieldSink) {
                sink.put(name, Digits::new().format(i64::from(*self)));
            }
        }

        impl<'e> FieldValue<'e> for Option<$kind> {
            fn from_text(name: &'static str, text: Option<&'e str>) -> Result<Self, HeaderError> {
                match text {
                    // The binary form knows no empty values, so they count as absent in both.
                    None | Some("") => Ok(None),
                    Some(text) => parse_field(name, text).map(Some),
                }
            }

            fn put(&self, name: &'static str, sink: &mut impl FieldSink) {
                if let Some(value) = self {
                    FieldValue::put(value, name, sink);
                }
            }
        }
    )*};
}
integer_field!(i32, i64);

impl<'e> FieldValue<'e> for bool {
    fn from_text(name: &'static str, text: Option<&'e str>) -> Result<Self, HeaderError> {
        Option::<bool>::from_text(name, text)?.ok_or(HeaderError::Missing { field: name })
    }

    fn put(&self, name: &'static str, sink: &mut impl FieldSink) {
        sink.put(name, if *self { "true" } else { "false" });
    }
}

/// Anything but `true` in any case is false, as the original's parser has it.
impl<'e> FieldValue<'e> for Option<bool> {
    fn from_text(_name: &'static str, text: Option<&'e str>) -> Result<Self, HeaderError> {
        Ok(text
            .filter(|text| !text.is_empty())
            .map(|text| text.eq_ignore_ascii_case("true")))
    }

    fn put(&self, name: &'static str, sink: &mut impl FieldSink) {
        if let Some(value) = self {
            FieldValue::put(value, name, sink);
        }
    }
}

/// Declares header structs: `field: Type = "wireName"`. Types: `&'e str`, `i32`, `i64`, `bool`, and `Option` of each.
///
/// ```
/// agena_protocol::header! {
///     /// Asks for one topic.
///     pub struct Example<'e> {
///         /// The topic's name.
///         topic: &'e str = "topic",
///         /// How many.
///         count: Option<i32> = "count",
///     }
/// }
/// ```
#[macro_export]
macro_rules! header {
    ($(#[$meta:meta])* pub struct $name:ident<'e> {
        $($(#[$field_meta:meta])* $field:ident : $kind:ty = $wire:literal,)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        pub struct $name<'e> {
            $($(#[$field_meta])* pub $field: $kind,)*
        }

        impl $crate::headers::Header for $name<'_> {
            fn write(&self, sink: &mut impl $crate::headers::FieldSink) {
                $($crate::headers::FieldValue::put(&self.$field, $wire, sink);)*
                let _ = sink;
            }
        }

        impl<'e> $crate::headers::DecodeHeader<'e> for $name<'e> {
            fn decode(
                ext: &'e $crate::ext_fields::ExtFields<'_>,
            ) -> Result<Self, $crate::ext_fields::HeaderError> {
                $(let mut $field = None;)*
                for (name, value) in ext.iter() {
                    match name {
                        $($wire => $field = Some(value),)*
                        _ => {}
                    }
                }
                Ok(Self { $($field: $crate::headers::FieldValue::from_text($wire, $field)?,)* })
            }
        }
    };
    ($(#[$meta:meta])* pub struct $name:ident {
        $($(#[$field_meta:meta])* $field:ident : $kind:ty = $wire:literal,)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $kind,)*
        }

        impl $crate::headers::Header for $name {
            fn write(&self, sink: &mut impl $crate::headers::FieldSink) {
                $($crate::headers::FieldValue::put(&self.$field, $wire, sink);)*
                let _ = sink;
            }
        }

        impl<'e> $crate::headers::DecodeHeader<'e> for $name {
            fn decode(
                ext: &'e $crate::ext_fields::ExtFields<'_>,
            ) -> Result<Self, $crate::ext_fields::HeaderError> {
                $(let mut $field = None;)*
                for (name, value) in ext.iter() {
                    match name {
                        $($wire => $field = Some(value),)*
                        _ => {}
                    }
                }
                Ok(Self { $($field: $crate::headers::FieldValue::from_text($wire, $field)?,)* })
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::admin::InvokeBrokerToResetOffsetRequest;
    use super::pull::PullMessageRequest;
    use super::send::{SendMessageRequest, SendMessageRequestV2};
    use super::*;
    use crate::request_code::RequestCode;

    fn short() -> SendMessageRequestV2<'static> {
        SendMessageRequestV2 {
            producer_group: "PG",
            topic: "T",
            default_topic: "TBW102",
            default_topic_queue_nums: 4,
            queue_id: -1,
            sys_flag: 0,
            born_timestamp: 1_795_224_012_345,
            flag: 7,
            properties: Some("k\u{1}v\u{2}"),
            reconsume_times: Some(0),
            unit_mode: Some(false),
            max_reconsume_times: None,
            batch: Some(true),
            bname: Some("broker-a"),
        }
    }

    #[test]
    fn both_forms_of_a_send_say_the_same() {
        let mut short_fields = ExtFields::new();
        short().write(&mut short_fields);
        let long = SendMessageRequest::read(RequestCode::SendMessageV2, &short_fields).unwrap();
        assert_eq!((long.topic, long.queue_id, long.flag), ("T", -1, 7));
        assert_eq!(long.properties, short().properties);
        assert_eq!(short_fields.get("m"), Some("true"));
        assert_eq!(short_fields.get("l"), None);
        let mut long_fields = ExtFields::new();
        long.write(&mut long_fields);
        let read = |code, fields| SendMessageRequest::read(code, fields).unwrap();
        assert_eq!(read(RequestCode::SendBatchMessage, &short_fields), long);
        assert_eq!(read(RequestCode::SendMessage, &long_fields), long);
        assert!(long.is_batch());
    }

    #[test]
    fn faults_name_the_field_on_the_wire() {
        let mut fields = ExtFields::new();
        short().write(&mut fields);
        fields.set("e", "x");
        assert!(matches!(
            SendMessageRequest::read(RequestCode::SendMessageV2, &fields),
            Err(HeaderError::Invalid { field: "e", .. })
        ));
        fields.set("e", "");
        assert_eq!(
            SendMessageRequest::read(RequestCode::SendMessageV2, &fields),
            Err(HeaderError::Missing { field: "e" })
        );
        assert_eq!(
            PullMessageRequest::decode(&fields),
            Err(HeaderError::Missing {
                field: "consumerGroup"
            })
        );
    }

    #[test]
    fn booleans_are_true_in_any_case_and_else_false() {
        let mut fields = ExtFields::new();
        for (text, value) in [("TRUE", true), ("true", true), ("1", false), ("no", false)] {
            for (name, value) in [("topic", "T"), ("group", "G"), ("timestamp", "-1")] {
                fields.set(name, value);
            }
            fields.set("isForce", text);
            let header = InvokeBrokerToResetOffsetRequest::decode(&fields).unwrap();
            assert_eq!(header.is_force, value, "{text}");
        }
    }
}
