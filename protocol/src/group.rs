//! Group names: what is allowed, and which are the system's own.
//!
//! Source: spec/semantics.md §2.3; Apache `Validators`, `MixAll.isSysConsumerGroup`.

use thiserror::Error;

use crate::topic::has_legal_characters;

/// Longest group name in characters that the original creates by itself.
pub const GROUP_CHARS_MAX: usize = 255;

/// Prefix of groups that brokers make for themselves; created on demand even where groups are not.
pub const SYSTEM_PREFIX: &str = "CID_RMQ_SYS_";

/// The group of admin tools.
pub const TOOLS_CONSUMER: &str = "TOOLS_CONSUMER";
/// The group every client's own producer sends in.
pub const CLIENT_INNER_PRODUCER: &str = "CLIENT_INNER_PRODUCER";
/// The group whose offset tells which transactions were checked.
pub const TRANSACTION_CONSUMER: &str = "CID_RMQ_SYS_TRANS";

/// Consumer groups the original knows without being told.
pub const PREDEFINED_GROUPS: [&str; 11] = [
    "DEFAULT_CONSUMER",
    TOOLS_CONSUMER,
    "SCHEDULE_CONSUMER",
    "FILTERSRV_CONSUMER",
    "__MONITOR_CONSUMER",
    "SELF_TEST_C_GROUP",
    "CID_ONS-HTTP-PROXY",
    "CID_ONSAPI_PERMISSION",
    "CID_ONSAPI_OWNER",
    "CID_ONSAPI_PULL",
    TRANSACTION_CONSUMER,
];

/// Why a name is no group name. The text is what the original's client says.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GroupFault {
    /// Empty, or nothing but white space.
    #[error("the specified group is blank")]
    Blank,
    /// Over [`GROUP_CHARS_MAX`].
    #[error("the specified group is longer than group max length 255.")]
    TooLong,
    /// A character outside the allowed ones.
    #[error(
        "the specified group[{0}] contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$"
    )]
    IllegalCharacters(String),
}

/// Checks a group's name as the original does where it creates one by itself, and in its client.
///
/// # Errors
/// The first [`GroupFault`], in the original's order.
pub fn check(group: &str) -> Result<(), GroupFault> {
    if group.trim().is_empty() {
        return Err(GroupFault::Blank);
    }
    if group.chars().count() > GROUP_CHARS_MAX {
        return Err(GroupFault::TooLong);
    }
    if !has_legal_characters(group) {
        return Err(GroupFault::IllegalCharacters(group.to_owned()));
    }
    Ok(())
}

/// One of the system's own groups.
#[must_use]
pub fn is_system(group: &str) -> bool {
    group.starts_with(SYSTEM_PREFIX) || PREDEFINED_GROUPS.contains(&group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_found_in_the_original_s_order() {
        assert_eq!(check(""), Err(GroupFault::Blank));
        assert_eq!(check(&"!".repeat(256)), Err(GroupFault::TooLong));
        assert_eq!(
            check("a b"),
            Err(GroupFault::IllegalCharacters("a b".into()))
        );
        assert_eq!(check(&"g".repeat(255)), Ok(()));
    }

    #[test]
    fn system_groups_by_prefix_or_by_name() {
        assert!(is_system("CID_RMQ_SYS_anything"));
        assert!(is_system("CID_ONSAPI_OWNER"));
        assert!(!is_system("CG"));
    }
}
