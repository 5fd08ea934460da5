//! Which messages a subscription wants, compiled once from its expression.
//!
//! Tags are compared by hash, as the queue entry has it: a message with another tag of the same hash passes, and the
//! client drops it. An expression that does not parse is refused by name; the original lets an inline SQL92 expression
//! that does not parse through and delivers everything. Apache: `FilterAPI`, `ExpressionMessageFilter`.

pub mod sql92;

use std::sync::Arc;

use agena_protocol::bodies::subscription::SubscriptionData;
use agena_protocol::properties::Properties;
use agena_protocol::record::RecordView;
use agena_protocol::tags::tags_code;
use smallvec::SmallVec;
use thiserror::Error;

use sql92::Expression;

/// The expression for "every message".
pub const EVERYTHING: &str = "*";

/// The expression type of tags, and of a request that names none.
pub const TAG: &str = "TAG";

/// The expression type of SQL92 conditions.
pub const SQL92: &str = "SQL92";

/// Why an expression is no filter.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FilterError {
    /// Separators without a tag between them.
    #[error("subString split error")]
    NoTag,
    /// The SQL92 expression does not parse.
    #[error(transparent)]
    Sql92(#[from] sql92::ParseError),
    /// Neither tags nor SQL92.
    #[error("expression type {0} is not supported")]
    UnknownType(String),
}

/// A compiled subscription.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// Every message.
    All,
    /// Messages whose tag has one of these hashes.
    Tags(SmallVec<[i64; 4]>),
    /// Messages whose properties fulfil a condition.
    Sql(Arc<Expression>),
}

impl Filter {
    /// Compiles the expression of a pull that carries its own.
    ///
    /// # Errors
    /// [`FilterError`].
    pub fn parse(expression_type: Option<&str>, expression: &str) -> Result<Self, FilterError> {
        match expression_type {
            None | Some("" | TAG) => Self::of_tags(expression),
            Some(SQL92) => Ok(Self::Sql(Arc::new(Expression::parse(expression)?))),
            Some(other) => Err(FilterError::UnknownType(other.to_owned())),
        }
    }

    /// Compiles what a heartbeat announced. Hashes that the client computed count as they are.
    ///
    /// # Errors
    /// [`FilterError`].
    pub fn compile(data: &SubscriptionData) -> Result<Self, FilterError> {
        if data.class_filter_mode {
            return Ok(Self::All);
        }
        let is_tags = matches!(data.expression_type.as_str(), "" | TAG);
        if is_tags && data.sub_string != EVERYTHING && !data.code_set.is_empty() {
            let codes = data.code_set.iter().map(|&code| i64::from(code));
            return Ok(Self::Tags(codes.collect()));
        }
        Self::parse(Some(&data.expression_type), &data.sub_string)
    }

    fn of_tags(expression: &str) -> Result<Self, FilterError> {
        if expression.is_empty() || expression == EVERYTHING {
            return Ok(Self::All);
        }
        let tags = expression.split("||").map(str::trim);
        let codes: SmallVec<[i64; 4]> = tags.filter(|tag| !tag.is_empty()).map(tags_code).collect();
        if codes.is_empty() {
            return Err(FilterError::NoTag);
        }
        Ok(Self::Tags(codes))
    }

    /// A condition of properties, which only brokers with `enablePropertyFilter` serve.
    #[must_use]
    pub fn is_sql(&self) -> bool {
        matches!(self, Self::Sql(_))
    }

    /// A message with this tag hash and these properties is wanted.
    #[must_use]
    pub fn matches(&self, tags_code: i64, properties: &Properties<'_>) -> bool {
        match self {
            Self::All => true,
            Self::Tags(codes) => codes.contains(&tags_code),
            Self::Sql(expression) => expression.matches(|name| properties.get(name)),
        }
    }
}

impl agena_store::Filter for Filter {
    fn by_tags_code(&self, tags_code: i64) -> bool {
        match self {
            Self::All | Self::Sql(_) => true,
            Self::Tags(codes) => codes.contains(&tags_code),
        }
    }

    fn wants_record(&self) -> bool {
        self.is_sql()
    }

    fn by_record(&self, record: &RecordView<'_>) -> bool {
        match self {
            Self::All | Self::Tags(_) => true,
            Self::Sql(expression) => expression.matches(|name| record.properties().get(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_split_and_hashed_as_java_does() {
        assert_eq!(
            Filter::parse(None, " TagA ||TagB|| "),
            Ok(Filter::Tags(SmallVec::from_slice(&[2_598_919, 2_598_920])))
        );
    }

    #[test]
    fn a_star_or_nothing_is_everything() {
        assert_eq!(Filter::parse(Some(TAG), "*"), Ok(Filter::All));
        assert_eq!(Filter::parse(None, ""), Ok(Filter::All));
    }

    #[test]
    fn expressions_that_say_nothing_are_refused() {
        assert_eq!(Filter::parse(None, "||"), Err(FilterError::NoTag));
        assert!(matches!(
            Filter::parse(Some(SQL92), "a >"),
            Err(FilterError::Sql92(_))
        ));
        assert_eq!(
            Filter::parse(Some("CLASS"), "x"),
            Err(FilterError::UnknownType("CLASS".to_owned()))
        );
    }

    #[test]
    fn a_negative_hash_is_compared_with_its_sign() {
        let Filter::Tags(codes) = Filter::parse(None, "order_created_successfully").unwrap() else {
            panic!("not tags")
        };
        assert_eq!(codes[0], tags_code("order_created_successfully"));
    }
}
