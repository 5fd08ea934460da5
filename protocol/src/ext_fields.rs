//! The string map of a header (`extFields`): borrowed from the frame where it can be, in the order of the wire.

use std::borrow::Cow;
use std::str::FromStr;

use smallvec::SmallVec;
use thiserror::Error;

/// A header field that is missing or does not parse.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// A required field is not there.
    #[error("the header field {field} is missing")]
    Missing {
        /// Name on the wire.
        field: &'static str,
    },
    /// A field's text is not a value of its type.
    #[error("the header field {field} is not a valid {expected}: {found:?}")]
    Invalid {
        /// Name on the wire.
        field: &'static str,
        /// The type in words.
        expected: &'static str,
        /// What was there (at most 64 characters of it).
        found: String,
    },
}

/// Header fields in wire order. A name that occurs twice counts with its last value, as in a map.
///
/// Twenty entries fit without allocation, which is more than any hot request has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExtFields<'a> {
    entries: SmallVec<[(Cow<'a, str>, Cow<'a, str>); 20]>,
}

impl<'a> ExtFields<'a> {
    /// No fields.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of `name`, the last one if it occurs twice.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.entries
            .iter()
            .rev()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_ref())
    }

    /// The value of a required field.
    ///
    /// # Errors
    /// [`HeaderError::Missing`].
    pub fn required(&self, name: &'static str) -> Result<&str, HeaderError> {
        self.get(name).ok_or(HeaderError::Missing { field: name })
    }

    /// The value of `name` as a number or another parsed type; an empty text counts as absent, as in the binary form.
    ///
    /// # Errors
    /// [`HeaderError::Invalid`].
    pub fn parsed<T: FromStr>(&self, name: &'static str) -> Result<Option<T>, HeaderError> {
        match self.get(name) {
            None | Some("") => Ok(None),
            Some(text) => parse_field(name, text).map(Some),
        }
    }

    /// Adds a field behind the others; a later value of the same name wins.
    pub fn push(&mut self, name: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) {
        self.entries.push((name.into(), value.into()));
    }

    /// Replaces the value of `name`, or adds it.
    pub fn set(&mut self, name: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) {
        let name = name.into();
        self.entries.retain(|(key, _)| *key != name);
        self.entries.push((name, value.into()));
    }

    /// Fields in wire order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries
            .iter()
            .map(|(key, value)| (key.as_ref(), value.as_ref()))
    }

    /// How many fields there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// No field at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The same fields, owned, so that they outlive the frame.
    #[must_use]
    pub fn into_owned(self) -> ExtFields<'static> {
        ExtFields {
            entries: self
                .entries
                .into_iter()
                .map(|(key, value)| (Cow::Owned(key.into_owned()), Cow::Owned(value.into_owned())))
                .collect(),
        }
    }
}

/// A field's text as a value; blanks around it do not count.
///
/// # Errors
/// [`HeaderError::Invalid`].
pub(crate) fn parse_field<T: FromStr>(name: &'static str, text: &str) -> Result<T, HeaderError> {
    text.parse()
        .or_else(|_| text.trim().parse())
        .map_err(|_| HeaderError::Invalid {
            field: name,
            expected: std::any::type_name::<T>(),
            found: text.chars().take(64).collect(),
        })
}
