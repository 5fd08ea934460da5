//! JSON bodies in the dialect of the original's library (fastjson), read leniently and written as it writes.
//!
//! Read beyond JSON: single quotes, names and integer keys without quotes, **objects as keys**, surplus commas,
//! numbers and booleans in quotes, numbers where a string is expected, `null` for anything (it means the type's empty
//! value). Unknown members are stepped over. Depth and the number of values are bounded, so that a body of bounded
//! length cannot make us allocate without measure.
//!
//! Written: compact, members in the order a type declares them (bodies declare the original's, alphabetical), nulls
//! omitted, and keys by [`KeyStyle`]. Source: spec/wire.md §1.4.

mod read;
mod write;

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

pub use write::KeyStyle;

/// How deep values may nest.
pub const DEPTH_MAX: usize = 64;

/// How many values a body may have; the largest real ones (all topics of a big cluster) have a fifth of it.
pub const VALUES_MAX: usize = 4 << 20;

/// Why a body is not a value of the expected type.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JsonError {
    /// The text breaks off or breaks the rules at this byte.
    #[error("{reason} at byte {at}")]
    Syntax {
        /// What was expected or is wrong.
        reason: &'static str,
        /// Bytes from the start of the text.
        at: usize,
    },
    /// The text reads, but says something a type cannot hold.
    #[error("{0}")]
    Type(String),
}

impl serde::de::Error for JsonError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self::Type(message.to_string())
    }
}

impl serde::ser::Error for JsonError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self::Type(message.to_string())
    }
}

/// Reads a value from the whole of `text`.
///
/// # Errors
/// [`JsonError`], also for anything but blanks behind the value.
pub fn from_slice<T: DeserializeOwned>(text: &[u8]) -> Result<T, JsonError> {
    let mut reader = read::Reader::new(text);
    let value = T::deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// Writes a value in one line.
#[must_use]
pub fn to_vec<T: Serialize + ?Sized>(value: &T, keys: KeyStyle) -> Vec<u8> {
    write::to_vec(value, keys, false)
}

/// Writes a value with a line a member, indented by tabs, as the original keeps its files. Keys are bare.
#[must_use]
pub fn to_vec_pretty<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    write::to_vec(value, KeyStyle::Bare, true)
}

/// An enum of the wire: written by name; read by name or ordinal, and anything else is its `#[default]`.
#[macro_export]
macro_rules! wire_enum {
    ($(#[$meta:meta])* pub enum $name:ident {
        $($(#[$variant_meta:meta])* $variant:ident = $text:literal,)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)*
        }

        impl $name {
            /// All values in the order of their ordinals.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name on the wire.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }

            /// The value with this name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.name() == name)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                let by_ordinal = || text.parse().ok().and_then(|at: usize| Self::ALL.get(at).copied());
                Ok(Self::from_name(&text).or_else(by_ordinal).unwrap_or_default())
            }
        }
    };
}

#[cfg(test)]
mod tests {
    #![expect(unreachable_pub, reason = "the macro declares public enums")]

    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::queue::{MessageQueue, QueueMap};

    wire_enum! {
        /// A colour.
        pub enum Colour {
            /// The first.
            #[default]
            Red = "RED",
            /// The second.
            Green = "GREEN",
        }
    }

    #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Everything {
        active: bool,
        by_number: BTreeMap<i64, String>,
        by_queue: QueueMap<i64>,
        colour: Colour,
        count: i32,
        list: Vec<Option<i64>>,
        name: String,
        note: Option<String>,
        ratio: f64,
        small: u8,
        total_bytes: u64,
    }

    fn read(text: &str) -> Everything {
        from_slice(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn sample() -> Everything {
        Everything {
            active: true,
            by_number: BTreeMap::from([(0, "a".into()), (-7, "b".into())]),
            by_queue: BTreeMap::from([(MessageQueue::new("T", "broker-a", 3), 9)]),
            colour: Colour::Green,
            count: -5,
            list: vec![Some(1)],
            name: "é\"\n".into(),
            note: None,
            ratio: 0.1,
            small: 200,
            total_bytes: u64::MAX,
        }
    }

    #[test]
    fn it_writes_as_the_original_does() {
        let text = r#"{"active":true,"byNumber":{-7:"b",0:"a"},"byQueue":{{"brokerName":"broker-a","queueId":3,"topic":"T"}:9},"colour":"GREEN","count":-5,"list":[1],"name":"é\"\n","ratio":0.1,"small":200,"totalBytes":18446744073709551615}"#;
        let written = to_vec(&sample(), KeyStyle::Bare);
        assert_eq!(String::from_utf8(written).unwrap(), text);
        assert_eq!(read(text), sample());
    }

    #[test]
    fn quoted_keys_make_it_plain_json_in_ascii() {
        let written = to_vec(&sample(), KeyStyle::Quoted);
        let text = String::from_utf8(written.clone()).unwrap();
        assert!(text.is_ascii(), "{text}");
        assert!(text.contains(r#""byNumber":{"-7":"b","0":"a"}"#), "{text}");
        assert!(text.contains(r#""name":"\u00E9\"\n""#), "{text}");
        let plain: serde_json::Value = serde_json::from_slice(&written).unwrap();
        assert_eq!(plain["count"], -5);
        assert_eq!(read(&text), sample());
    }

    #[test]
    fn pretty_text_has_tabs_and_bare_keys() {
        let value = BTreeMap::from([("offsets", BTreeMap::from([(0, 7), (3, 1)]))]);
        let text = String::from_utf8(to_vec_pretty(&value)).unwrap();
        assert_eq!(text, "{\n\t\"offsets\":{0:7,\n\t\t3:1\n\t}\n}");
        let empty: BTreeMap<i32, i32> = BTreeMap::new();
        assert_eq!(to_vec_pretty(&empty), b"{}");
    }

    #[test]
    fn leniency_of_the_original() {
        let value = read(
            r#" { 'active' : "true", byNumber:{"1":2, 3 : 'x',}, count:"12", unknown:[{"deep":[1,{2:3}]}],
                name:5, ratio:"0.5", list:[1,"2",null,,3,], colour:1, small: 7.0, totalBytes:null, } "#,
        );
        assert!(value.active);
        assert_eq!(
            value.by_number,
            BTreeMap::from([(1, "2".into()), (3, "x".into())])
        );
        assert_eq!((value.count, value.small), (12, 7));
        assert_eq!(value.name, "5");
        assert_eq!(value.list, [Some(1), Some(2), None, Some(3)]);
        assert_eq!(value.colour, Colour::Green);
        assert_eq!(value.ratio.to_bits(), 0.5f64.to_bits());
    }

    #[test]
    fn null_is_the_empty_value_of_every_type() {
        let text = r#"{"active":null,"byNumber":null,"byQueue":null,"colour":null,"count":null,"list":null,"name":null,"note":null,"ratio":null,"small":null}"#;
        assert_eq!(read(text), Everything::default());
        assert_eq!(from_slice::<Option<i32>>(b"null"), Ok(None));
    }

    #[test]
    fn unknown_enum_names_fall_back_to_the_default() {
        assert_eq!(read(r#"{"colour":"BLUE"}"#).colour, Colour::Red);
    }

    #[test]
    fn a_queue_as_a_key_may_stand_in_a_string() {
        let text = r#"{"byQueue":{"{\"brokerName\":\"b\",\"queueId\":1,\"topic\":\"T\"}":4}}"#;
        assert_eq!(
            read(text).by_queue,
            BTreeMap::from([(MessageQueue::new("T", "b", 1), 4)])
        );
    }

    #[test]
    fn what_does_not_read_is_an_error() {
        for text in [
            "",
            "{",
            "{\"count\":}",
            "{\"count\":1}}",
            "{\"count\":99999999999}",
            "{\"count\":\"x\"}",
            "{\"name\":\"\\u12\"}",
            "{\"small\":-1}",
            "{\"ratio\":\"NaN\"}",
            "{\"ratio\":1e999}",
            "[",
            "{\"list\":[1",
            "{\"byQueue\":{{\"topic\":\"T\"}}",
            "{\"byQueue\":{1:2}}",
        ] {
            assert!(from_slice::<Everything>(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn depth_and_number_of_values_are_bounded() {
        let deep = format!("{{\"unknown\":{}", "[".repeat(1_000_000));
        assert!(from_slice::<Everything>(deep.as_bytes()).is_err());
        let deep_keys = format!("{{\"unknown\":{}", "{".repeat(1_000_000));
        assert!(from_slice::<Everything>(deep_keys.as_bytes()).is_err());
        let deep_known: String = "{\"byQueue\":{".repeat(50_000);
        assert!(from_slice::<Everything>(deep_known.as_bytes()).is_err());
        let many = format!("[{}", "0,".repeat(VALUES_MAX + 1));
        assert!(matches!(
            from_slice::<Vec<u8>>(many.as_bytes()),
            Err(JsonError::Syntax {
                reason: "too many values",
                ..
            })
        ));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            name in ".*",
            count in any::<i32>(),
            numbers in proptest::collection::btree_map(any::<i64>(), ".{0,8}", 0..5),
            queues in proptest::collection::vec((".{0,8}", ".{0,8}", any::<i32>(), any::<i64>()), 0..5),
            ratio in -1e300f64..1e300,
        ) {
            let by_queue = queues.into_iter().map(|(t, b, q, v)| (MessageQueue::new(t, b, q), v)).collect();
            let value = Everything { name, count, by_number: numbers, by_queue, ratio, ..sample() };
            for keys in [KeyStyle::Bare, KeyStyle::Quoted] {
                prop_assert_eq!(&from_slice::<Everything>(&to_vec(&value, keys)).unwrap(), &value);
            }
            prop_assert_eq!(&from_slice::<Everything>(&to_vec_pretty(&value)).unwrap(), &value);
        }

        #[test]
        fn any_text_ends_in_a_value_or_an_error(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = from_slice::<Everything>(&text);
        }

        #[test]
        fn any_mutation_ends_in_a_value_or_an_error(at in 0usize..200, byte in any::<u8>(), keep in 0usize..250) {
            let mut text = to_vec(&sample(), KeyStyle::Bare);
            let at = at % text.len();
            text[at] = byte;
            text.truncate(keep.max(1));
            let _ = from_slice::<Everything>(&text);
        }
    }
}
