//! Users and rules: codes 3001 to 3010. Source: spec/wire.md §7.2.

use crate::header;

header! {
    /// One user: codes 3001 to 3004.
    pub struct AuthUserRequest<'e> {
        /// The name.
        username: &'e str = "username",
    }
}

header! {
    /// Users: code 3005.
    pub struct AuthListUserRequest<'e> {
        /// What their names contain.
        filter: Option<&'e str> = "filter",
    }
}

header! {
    /// One subject's rules: codes 3006, 3007, 3009.
    pub struct AuthAclRequest<'e> {
        /// `User:name`.
        subject: &'e str = "subject",
    }
}

header! {
    /// A rule is to go: code 3008.
    pub struct AuthDeleteAclRequest<'e> {
        /// `User:name`.
        subject: &'e str = "subject",
        /// `Custom` or `Default`.
        policy_type: Option<&'e str> = "policyType",
        /// `Topic:T`; empty is all.
        resource: Option<&'e str> = "resource",
    }
}

header! {
    /// Rules: code 3010.
    pub struct AuthListAclRequest<'e> {
        /// What the subjects contain.
        subject_filter: Option<&'e str> = "subjectFilter",
        /// What the resources contain.
        resource_filter: Option<&'e str> = "resourceFilter",
    }
}
