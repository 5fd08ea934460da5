//! The attributes of a topic and how an administrator changes them: `+name=value` sets, `-name` removes.
//!
//! The remarks are the original's, since tools show them. Apache: `AttributeParser`, `AttributeUtil`, `TopicAttributes`.

use std::collections::BTreeMap;

use thiserror::Error;

/// Attributes by name, or changes by signed name.
pub type Attributes = BTreeMap<String, String>;

/// Why attributes cannot be changed so. The text is the remark of the answer (code 1).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AttributeFault {
    /// `name=value` without a plus in its name.
    #[error("add/alter attribute format is wrong: {0}")]
    AddFormat(String),
    /// A name alone, without a minus.
    #[error("delete attribute format is wrong: {0}")]
    DeleteFormat(String),
    /// One name twice.
    #[error("key duplication: {0}")]
    Duplicate(String),
    /// A removal for a topic that does not exist yet.
    #[error("only add attribute is supported while creating topic. key: {0}")]
    OnlyAdd(String),
    /// Neither plus nor minus.
    #[error("wrong format key: {0}")]
    Unsigned(String),
    /// A name that is empty or holds another sign.
    #[error("kv string format wrong.")]
    Format,
    /// A name nobody knows.
    #[error("unsupported key: {0}")]
    Unsupported(String),
    /// Fixed once the topic exists.
    #[error("attempt to update an unchangeable attribute. key: {0}")]
    Unchangeable(String),
    /// A removal of what is not there.
    #[error("attempt to delete a nonexistent key: {0}")]
    Nonexistent(String),
    /// A value outside the allowed ones.
    #[error("value is not in set: [{}]", .0.join(", "))]
    NotInSet(&'static [&'static str]),
}

struct Attribute {
    name: &'static str,
    changeable: bool,
    values: &'static [&'static str],
}

/// Retention per topic (`reserve.time`) belongs to the tiered store only, so it is unsupported here.
const KNOWN: [Attribute; 3] = [
    Attribute {
        name: "queue.type",
        changeable: false,
        values: &["BatchCQ", "SimpleCQ"],
    },
    Attribute {
        name: "cleanup.policy",
        changeable: false,
        values: &["DELETE", "COMPACTION"],
    },
    Attribute {
        name: MESSAGE_TYPE,
        changeable: true,
        values: &[
            "UNSPECIFIED",
            "NORMAL",
            "FIFO",
            "DELAY",
            "TRANSACTION",
            "MIXED",
        ],
    },
];

/// Which kind of messages a topic is for.
pub const MESSAGE_TYPE: &str = "message.type";

/// Reads the changes of a request header: `+name=value,-name`.
///
/// # Errors
/// [`AttributeFault`].
pub fn parse_changes(text: &str) -> Result<Attributes, AttributeFault> {
    let mut changes = Attributes::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (name, value) = match part.split_once('=') {
            Some((name, _)) if !name.contains('+') => {
                return Err(AttributeFault::AddFormat(name.to_owned()));
            }
            Some((name, value)) => (name, value),
            None if !part.contains('-') => {
                return Err(AttributeFault::DeleteFormat(part.to_owned()));
            }
            None => (part, ""),
        };
        if changes.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(AttributeFault::Duplicate(name.to_owned()));
        }
    }
    Ok(changes)
}

/// The attributes of a new topic.
///
/// # Errors
/// [`AttributeFault`].
pub fn of_new_topic(changes: &Attributes) -> Result<Attributes, AttributeFault> {
    let mut attributes = Attributes::new();
    for (signed, value) in changes {
        let (sign, name) = split_sign(signed)?;
        if sign != '+' {
            return Err(AttributeFault::OnlyAdd(name.to_owned()));
        }
        verify(known(name)?, value)?;
        attributes.insert(name.to_owned(), value.clone());
    }
    Ok(attributes)
}

/// The attributes of an existing topic after `changes`.
///
/// # Errors
/// [`AttributeFault`]; then nothing is changed.
pub fn alter(current: &Attributes, changes: &Attributes) -> Result<Attributes, AttributeFault> {
    let mut attributes = current.clone();
    for (signed, value) in changes {
        let (sign, name) = split_sign(signed)?;
        let removes = match sign {
            '+' => false,
            '-' if current.contains_key(name) => true,
            '-' => return Err(AttributeFault::Nonexistent(name.to_owned())),
            _ => return Err(AttributeFault::Unsigned(name.to_owned())),
        };
        let attribute = known(name)?;
        if !attribute.changeable {
            return Err(AttributeFault::Unchangeable(name.to_owned()));
        }
        if removes {
            attributes.remove(name);
        } else {
            verify(attribute, value)?;
            attributes.insert(name.to_owned(), value.clone());
        }
    }
    Ok(attributes)
}

/// The first character is the sign, whatever it is; the rest is the name and holds no other sign.
fn split_sign(signed: &str) -> Result<(char, &str), AttributeFault> {
    let mut characters = signed.chars();
    let sign = characters.next().ok_or(AttributeFault::Format)?;
    let name = characters.as_str();
    if name.is_empty() || name.contains(['+', '-']) {
        return Err(AttributeFault::Format);
    }
    Ok((sign, name))
}

fn known(name: &str) -> Result<&'static Attribute, AttributeFault> {
    KNOWN
        .iter()
        .find(|attribute| attribute.name == name)
        .ok_or_else(|| AttributeFault::Unsupported(name.to_owned()))
}

fn verify(attribute: &Attribute, value: &str) -> Result<(), AttributeFault> {
    if attribute.values.contains(&value) {
        Ok(())
    } else {
        Err(AttributeFault::NotInSet(attribute.values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(text: &str) -> Attributes {
        parse_changes(text).unwrap()
    }

    #[test]
    fn a_new_topic_takes_additions_only() {
        let made = of_new_topic(&changes("+message.type=FIFO,+queue.type=BatchCQ")).unwrap();
        assert_eq!(made["message.type"], "FIFO");
        assert_eq!(made["queue.type"], "BatchCQ");
        assert_eq!(
            of_new_topic(&changes("-message.type"))
                .unwrap_err()
                .to_string(),
            "only add attribute is supported while creating topic. key: message.type"
        );
        assert_eq!(
            of_new_topic(&changes("+nonsense=1"))
                .unwrap_err()
                .to_string(),
            "unsupported key: nonsense"
        );
        assert!(of_new_topic(&changes("+message.type=SOME")).is_err());
    }

    #[test]
    fn an_existing_topic_changes_what_may_change() {
        let current = of_new_topic(&changes("+message.type=FIFO,+queue.type=SimpleCQ")).unwrap();
        let altered = alter(&current, &changes("+message.type=DELAY")).unwrap();
        assert_eq!(altered["message.type"], "DELAY");
        assert_eq!(alter(&current, &changes("-message.type")).unwrap().len(), 1);
        assert_eq!(
            alter(&current, &changes("+queue.type=BatchCQ"))
                .unwrap_err()
                .to_string(),
            "attempt to update an unchangeable attribute. key: queue.type"
        );
        assert_eq!(
            alter(&current, &changes("-cleanup.policy"))
                .unwrap_err()
                .to_string(),
            "attempt to delete a nonexistent key: cleanup.policy"
        );
    }

    #[test]
    fn the_text_form_says_what_is_wrong_with_it() {
        assert_eq!(
            parse_changes("a=b").unwrap_err().to_string(),
            "add/alter attribute format is wrong: a"
        );
        assert_eq!(
            parse_changes("+a").unwrap_err().to_string(),
            "delete attribute format is wrong: +a"
        );
        assert_eq!(
            parse_changes("+a=1,+a=2").unwrap_err().to_string(),
            "key duplication: +a"
        );
        assert!(parse_changes("").unwrap().is_empty());
    }
}
