//! The string map of a header (`extFields`): borrowed from the frame where it can be, in the order of the wire.

use std::borrow::Cow;
use std::fmt;
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
/// Texts of the frame are borrowed; those that had to be unescaped, or are ours, stand behind one another in one
/// string. Twenty entries fit without allocation, which is more than any hot request has.
#[derive(Clone, Default)]
pub struct ExtFields<'a> {
    entries: SmallVec<[(Text<'a>, Text<'a>); 20]>,
    own: String,
}

/// A text of the frame, or a place in [`ExtFields::own`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum Text<'a> {
    /// In the frame.
    Borrowed(&'a str),
    /// From here to there.
    Own(u32, u32),
}

/// The table must not grow unnoticed: every request carries one.
const _: () = assert!(size_of::<Text<'_>>() == 16);

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
            .find(|(key, _)| self.text(*key) == name)
            .map(|(_, value)| self.text(*value))
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
        let name = self.keep(name.into());
        let value = self.keep(value.into());
        self.entries.push((name, value));
    }

    /// Replaces the value of `name`, or adds it.
    pub fn set(&mut self, name: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) {
        let name = name.into();
        let own = std::mem::take(&mut self.own);
        self.entries.retain(|(key, _)| key.of(&own) != name);
        self.own = own;
        self.push(name, value);
    }

    /// Fields in wire order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries
            .iter()
            .map(|(key, value)| (self.text(*key), self.text(*value)))
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
        let bytes = self.iter().map(|(name, value)| name.len() + value.len());
        let mut owned = ExtFields {
            own: String::with_capacity(bytes.sum()),
            entries: SmallVec::with_capacity(self.entries.len()),
        };
        for (name, value) in self.iter() {
            let name = owned.append(name);
            let value = owned.append(value);
            owned.entries.push((name, value));
        }
        owned
    }

    /// Adds a field whose texts are already where they belong.
    #[inline]
    pub(crate) fn push_texts(&mut self, name: Text<'a>, value: Text<'a>) {
        self.entries.push((name, value));
    }

    /// Lets `write` put a text behind the own ones.
    pub(crate) fn write_own<E>(
        &mut self,
        write: impl FnOnce(&mut String) -> Result<(), E>,
    ) -> Result<Text<'a>, E> {
        let from = place(self.own.len());
        write(&mut self.own)?;
        Ok(Text::Own(from, place(self.own.len())))
    }

    fn keep(&mut self, text: Cow<'a, str>) -> Text<'a> {
        match text {
            Cow::Borrowed(text) => Text::Borrowed(text),
            Cow::Owned(text) => self.append(&text),
        }
    }

    /// Keeps a text behind the own ones.
    pub(crate) fn append(&mut self, text: &str) -> Text<'a> {
        let from = place(self.own.len());
        self.own.push_str(text);
        Text::Own(from, place(self.own.len()))
    }

    #[inline]
    fn text<'t>(&'t self, text: Text<'t>) -> &'t str {
        text.of(&self.own)
    }
}

impl<'a> Text<'a> {
    #[inline]
    fn of<'t>(self, own: &'t str) -> &'t str
    where
        'a: 't,
    {
        match self {
            Self::Borrowed(text) => text,
            Self::Own(from, to) => {
                let from = usize::try_from(from).unwrap_or(usize::MAX);
                let to = usize::try_from(to).unwrap_or(usize::MAX);
                own.get(from..to).unwrap_or_default()
            }
        }
    }
}

/// A place in a string. Headers end far below 4 GiB, since frames do.
fn place(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Equal if the same fields stand in the same order, wherever their texts are kept.
impl PartialEq for ExtFields<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for ExtFields<'_> {}

impl fmt::Debug for ExtFields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_the_same_wherever_they_are_kept() {
        let mut fields = ExtFields::new();
        fields.push("a", "1");
        fields.push("b".to_owned(), "2".to_owned());
        fields.push("a", "3".to_owned());
        assert_eq!(fields.get("a"), Some("3"));
        fields.set("a", "4");
        let found: Vec<_> = fields.iter().collect();
        assert_eq!(found, [("b", "2"), ("a", "4")]);
        assert_eq!(format!("{fields:?}"), r#"{"b": "2", "a": "4"}"#);
        let owned = fields.clone().into_owned();
        assert_eq!(owned, fields);
        assert_eq!((owned.len(), owned.is_empty()), (2, false));
        fields.set("b", "5");
        assert_ne!(owned, fields);
    }

    #[test]
    fn blanks_around_a_number_do_not_count() {
        let mut fields = ExtFields::new();
        fields.push("n", " 7 ");
        fields.push("empty", "");
        assert_eq!(fields.parsed::<i32>("n"), Ok(Some(7)));
        assert_eq!(fields.parsed::<i32>("empty"), Ok(None));
        assert_eq!(fields.parsed::<i32>("none"), Ok(None));
    }
}
