//! SQL92 filter expressions: parsed once when a subscription arrives, evaluated against the properties of a record.
//!
//! ```text
//! or      = and { OR and }
//! and     = equality { AND equality }
//! equality= comparison { ("=" | "<>") comparison | IS [NOT] NULL }
//! comparison = unary { (">" | ">=" | "<" | "<=") unary | [NOT] BETWEEN unary AND unary
//!                    | [NOT] IN "(" text { "," text } ")" | [NOT] (CONTAINS | STARTSWITH | ENDSWITH) text }
//! unary   = ("+" | "-" | NOT) unary | literal | property | "(" or ")"
//! ```
//! Three-valued logic; properties are texts and become numbers or booleans where the other side is one; texts have no
//! order unless both are numbers. What cannot be compared makes the whole expression not match. Apache: the `filter`
//! module (SelectorParser). It ignores whatever stands behind a complete expression; here that is an error, because a
//! subscriber who wrote it meant something by it. It also refuses `0.0`, which is accepted here.

use std::collections::HashSet;
use std::fmt;

use thiserror::Error;

/// The longest expression that is looked at, in bytes.
const EXPRESSION_BYTES_MAX: usize = 32 * 1024;

/// How deep parentheses and unary operators may nest: parsing and evaluation recurse.
const DEPTH_MAX: usize = 128;

/// Why an expression is refused; the text goes to the subscriber.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{reason} at character {at}")]
pub struct ParseError {
    /// Byte position in the expression.
    pub at: usize,
    /// What was expected or is not allowed, in words.
    pub reason: String,
}

/// A parsed expression.
#[derive(Debug, Clone, PartialEq)]
pub struct Expression {
    root: Node,
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Property(String),
    Negate(Box<Node>),
    /// A bare property where a condition is wanted: false for any text, unknown when absent.
    Cast(Box<Node>),
    Not(Box<Node>),
    /// At least two conditions, side by side: a long chain must not become a deep tree.
    And(Vec<Node>),
    Or(Vec<Node>),
    Equal(Box<Node>, Box<Node>),
    Order(Order, Box<Node>, Box<Node>),
    In {
        property: String,
        texts: HashSet<String>,
        negated: bool,
    },
    Match {
        kind: Match,
        of: Box<Node>,
        text: String,
        negated: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Match {
    Contains,
    StartsWith,
    EndsWith,
}

impl Node {
    /// Yields true, false or unknown, whatever the properties are.
    fn is_condition(&self) -> bool {
        match self {
            Self::Null
            | Self::Bool(_)
            | Self::Cast(_)
            | Self::Not(_)
            | Self::And(_)
            | Self::Or(_)
            | Self::Equal(..)
            | Self::Order(..)
            | Self::In { .. }
            | Self::Match { .. } => true,
            Self::Int(_) | Self::Float(_) | Self::Text(_) | Self::Property(_) | Self::Negate(_) => {
                false
            }
        }
    }

    fn number(&self) -> Option<f64> {
        match self {
            #[expect(
                clippy::cast_precision_loss,
                reason = "only the order of two bounds is looked at"
            )]
            Self::Int(value) => Some(*value as f64),
            Self::Float(value) => Some(*value),
            Self::Negate(inner) => inner.number().map(|value| -value),
            _ => None,
        }
    }
}

impl Expression {
    /// Parses `text`.
    ///
    /// # Errors
    /// [`ParseError`] naming the place.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.len() > EXPRESSION_BYTES_MAX {
            return Err(ParseError {
                at: EXPRESSION_BYTES_MAX,
                reason: format!("the expression is longer than {EXPRESSION_BYTES_MAX} bytes"),
            });
        }
        let mut parser = Parser {
            tokens: tokens(text)?,
            at: 0,
            end: text.len(),
            depth: 0,
        };
        let root = parser.or()?;
        let root = parser.condition(root)?;
        match parser.peek() {
            None => Ok(Self { root }),
            Some(token) => Err(parser.error(&format!("unexpected {token}"))),
        }
    }

    /// Whether a record with these properties is wanted.
    pub fn matches<'p>(&self, property: impl Fn(&str) -> Option<&'p str>) -> bool {
        matches!(
            evaluate(&self.root, &|name| property(name)),
            Ok(Value::Bool(true))
        )
    }
}

/// Finds a property of the record.
type Lookup<'f, 'p> = dyn Fn(&str) -> Option<&'p str> + 'f;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'a str),
}

/// Two values that have no relation, such as a text that is no number and a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Incomparable;

fn evaluate<'a>(node: &'a Node, property: &Lookup<'_, 'a>) -> Result<Value<'a>, Incomparable> {
    Ok(match node {
        Node::Null => Value::Null,
        Node::Bool(value) => Value::Bool(*value),
        Node::Int(value) => Value::Int(*value),
        Node::Float(value) => Value::Float(*value),
        Node::Text(text) => Value::Text(text),
        Node::Property(name) => property(name).map_or(Value::Null, Value::Text),
        Node::Negate(inner) => match evaluate(inner, property)? {
            Value::Int(value) => Value::Int(value.wrapping_neg()),
            Value::Float(value) => Value::Float(-value),
            Value::Null | Value::Bool(_) | Value::Text(_) => Value::Null,
        },
        Node::Cast(inner) => match evaluate(inner, property)? {
            Value::Null => Value::Null,
            Value::Bool(value) => Value::Bool(value),
            Value::Int(_) | Value::Float(_) | Value::Text(_) => Value::Bool(false),
        },
        Node::Not(inner) => match evaluate(inner, property)? {
            Value::Bool(value) => Value::Bool(!value),
            _ => Value::Null,
        },
        Node::And(conditions) => all(conditions, property, false)?,
        Node::Or(conditions) => all(conditions, property, true)?,
        Node::Equal(left, right) => equal(evaluate(left, property)?, evaluate(right, property)?)?,
        Node::Order(order, left, right) => {
            match (evaluate(left, property)?, evaluate(right, property)?) {
                (Value::Null, _) | (_, Value::Null) => Value::Null,
                (left, right) => Value::Bool(order.holds(compare_numbers(left, right)?)),
            }
        }
        Node::In {
            property: name,
            texts,
            negated,
        } => property(name).map_or(Value::Null, |text| {
            Value::Bool(texts.contains(text) != *negated)
        }),
        Node::Match {
            kind,
            of,
            text,
            negated,
        } => match evaluate(of, property)? {
            Value::Text(value) if !text.is_empty() => {
                Value::Bool(kind.holds(value, text) != *negated)
            }
            _ => Value::Bool(false),
        },
    })
}

/// AND and OR of three-valued logic: `deciding` is the value of one condition that settles the matter.
fn all<'a>(
    conditions: &'a [Node],
    property: &Lookup<'_, 'a>,
    deciding: bool,
) -> Result<Value<'a>, Incomparable> {
    let mut known = true;
    for condition in conditions {
        match evaluate(condition, property)? {
            Value::Bool(value) if value == deciding => return Ok(Value::Bool(deciding)),
            Value::Bool(_) => {}
            _ => known = false,
        }
    }
    Ok(if known {
        Value::Bool(!deciding)
    } else {
        Value::Null
    })
}

fn equal<'a>(left: Value<'a>, right: Value<'a>) -> Result<Value<'a>, Incomparable> {
    Ok(match (left, right) {
        (Value::Null, Value::Null) => Value::Bool(true),
        (Value::Null, _) => Value::Null,
        (_, Value::Null) => Value::Bool(false),
        (Value::Text(left), Value::Text(right)) => Value::Bool(left == right),
        (Value::Bool(left), Value::Bool(right)) => Value::Bool(left == right),
        (Value::Bool(flag), Value::Text(text)) | (Value::Text(text), Value::Bool(flag)) => {
            Value::Bool(text.eq_ignore_ascii_case("true") == flag)
        }
        (Value::Bool(_), Value::Int(_) | Value::Float(_))
        | (Value::Int(_) | Value::Float(_), Value::Bool(_)) => Value::Bool(false),
        (left, right) => Value::Bool(compare_numbers(left, right)?.is_eq()),
    })
}

/// Orders two values as numbers; a text beside an integer has to be an integer, as in the original.
fn compare_numbers(left: Value<'_>, right: Value<'_>) -> Result<std::cmp::Ordering, Incomparable> {
    let integer = |text: &str| text.parse::<i64>().map_err(|_| Incomparable);
    match (left, right) {
        (Value::Int(left), Value::Int(right)) => Ok(left.cmp(&right)),
        (Value::Int(left), Value::Text(right)) => Ok(left.cmp(&integer(right)?)),
        (Value::Text(left), Value::Int(right)) => Ok(integer(left)?.cmp(&right)),
        (left, right) => float(left)?.partial_cmp(&float(right)?).ok_or(Incomparable),
    }
}

fn float(value: Value<'_>) -> Result<f64, Incomparable> {
    match value {
        #[expect(
            clippy::cast_precision_loss,
            reason = "as the original compares an integer with a double"
        )]
        Value::Int(value) => Ok(value as f64),
        Value::Float(value) => Ok(value),
        Value::Text(text) => text.trim().parse().map_err(|_| Incomparable),
        Value::Null | Value::Bool(_) => Err(Incomparable),
    }
}

impl Order {
    fn holds(self, ordering: std::cmp::Ordering) -> bool {
        match self {
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
        }
    }
}

impl Match {
    fn holds(self, value: &str, text: &str) -> bool {
        match self {
            Self::Contains => value.contains(text),
            Self::StartsWith => value.starts_with(text),
            Self::EndsWith => value.ends_with(text),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// A reserved word, in capitals.
    Word(&'static str),
    Symbol(&'static str),
    Name(String),
    Int(i64),
    Float(f64),
    Text(String),
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) | Self::Symbol(word) => write!(f, "{word}"),
            Self::Name(name) => write!(f, "{name}"),
            Self::Int(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value}"),
            Self::Text(text) => write!(f, "'{text}'"),
        }
    }
}

const WORDS: [&str; 12] = [
    "NOT",
    "AND",
    "OR",
    "BETWEEN",
    "IN",
    "TRUE",
    "FALSE",
    "NULL",
    "IS",
    "CONTAINS",
    "STARTSWITH",
    "ENDSWITH",
];

const SYMBOLS: [&str; 11] = ["<>", ">=", "<=", "=", ">", "<", "(", ")", ",", "+", "-"];

fn tokens(text: &str) -> Result<Vec<(usize, Token)>, ParseError> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let start = at;
        let rest = &text[at..];
        let token = match byte {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0c => {
                at += 1;
                continue;
            }
            b'-' if rest.starts_with("--") => {
                at += rest.find(['\n', '\r']).unwrap_or(rest.len());
                continue;
            }
            b'/' if rest.starts_with("/*") => {
                at += rest
                    .find("*/")
                    .ok_or_else(|| error(start, "the comment does not end"))?
                    + 2;
                continue;
            }
            b'\'' => text_literal(text, &mut at)?,
            b'0'..=b'9' | b'.' => number_literal(text, &mut at)?,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'$' => {
                let length = rest
                    .find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '$')
                    .unwrap_or(rest.len());
                at += length;
                let name = &rest[..length];
                match WORDS.iter().find(|word| word.eq_ignore_ascii_case(name)) {
                    Some(word) => Token::Word(word),
                    None => Token::Name(name.to_owned()),
                }
            }
            _ => match SYMBOLS.iter().find(|symbol| rest.starts_with(*symbol)) {
                Some(symbol) => {
                    at += symbol.len();
                    Token::Symbol(symbol)
                }
                None => {
                    let found = rest.chars().next().unwrap_or(char::REPLACEMENT_CHARACTER);
                    return Err(error(at, &format!("unexpected character {found:?}")));
                }
            },
        };
        tokens.push((start, token));
    }
    Ok(tokens)
}

/// `'…'` with `''` for a quote inside.
fn text_literal(text: &str, at: &mut usize) -> Result<Token, ParseError> {
    let start = *at;
    let mut value = String::new();
    let mut rest = &text[start + 1..];
    loop {
        let end = rest
            .find('\'')
            .ok_or_else(|| error(start, "the text literal does not end"))?;
        value.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('\'') {
            Some(behind) => {
                value.push('\'');
                rest = behind;
            }
            None => break,
        }
    }
    *at = text.len() - rest.len();
    Ok(Token::Text(value))
}

fn number_literal(text: &str, at: &mut usize) -> Result<Token, ParseError> {
    let start = *at;
    let bytes = text.as_bytes();
    let digits = |from: usize| {
        bytes[from..]
            .iter()
            .take_while(|b| b.is_ascii_digit())
            .count()
    };
    let mut end = start + digits(start);
    let whole = end - start;
    let mut is_float = false;
    if bytes.get(end) == Some(&b'.') {
        let fraction = digits(end + 1);
        if whole + fraction == 0 {
            return Err(error(start, "unexpected character '.'"));
        }
        end += 1 + fraction;
        is_float = true;
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits((end + 1 + sign).min(bytes.len()));
        if exponent > 0 {
            end += 1 + sign + exponent;
            is_float = true;
        }
    }
    *at = end;
    let literal = &text[start..end];
    if is_float {
        return match literal.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(Token::Float(value)),
            _ => Err(error(start, "the number is out of range")),
        };
    }
    if matches!(bytes.get(end), Some(b'l' | b'L')) {
        *at += 1;
    }
    literal
        .parse()
        .map(Token::Int)
        .map_err(|_| error(start, "the number is out of range"))
}

fn error(at: usize, reason: &str) -> ParseError {
    ParseError {
        at,
        reason: reason.to_owned(),
    }
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    at: usize,
    end: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(_, token)| token)
    }

    fn error(&self, reason: &str) -> ParseError {
        error(
            self.tokens.get(self.at).map_or(self.end, |(at, _)| *at),
            reason,
        )
    }

    /// Takes the next token if it is this word or symbol.
    fn take(&mut self, wanted: &'static str) -> bool {
        let found =
            matches!(self.peek(), Some(Token::Word(text) | Token::Symbol(text)) if *text == wanted);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, wanted: &'static str) -> Result<(), ParseError> {
        if self.take(wanted) {
            Ok(())
        } else {
            Err(self.error(&format!("expected {wanted}")))
        }
    }

    fn text(&mut self) -> Result<String, ParseError> {
        let Some(Token::Text(text)) = self.peek() else {
            return Err(self.error("expected a text in single quotes"));
        };
        let text = text.clone();
        self.at += 1;
        Ok(text)
    }

    /// `node` as something that is true, false or unknown.
    fn condition(&self, node: Node) -> Result<Node, ParseError> {
        match node {
            Node::Property(_) => Ok(Node::Cast(Box::new(node))),
            node if node.is_condition() => Ok(node),
            _ => Err(self.error("expected a condition in front of this place")),
        }
    }

    fn or(&mut self) -> Result<Node, ParseError> {
        self.chain("OR", Self::and, Node::Or)
    }

    fn and(&mut self) -> Result<Node, ParseError> {
        self.chain("AND", Self::equality, Node::And)
    }

    fn chain(
        &mut self,
        word: &'static str,
        part: fn(&mut Self) -> Result<Node, ParseError>,
        join: fn(Vec<Node>) -> Node,
    ) -> Result<Node, ParseError> {
        let first = part(self)?;
        if !self.take(word) {
            return Ok(first);
        }
        let mut conditions = vec![self.condition(first)?];
        loop {
            let next = part(self)?;
            conditions.push(self.condition(next)?);
            if !self.take(word) {
                return Ok(join(conditions));
            }
        }
    }

    /// One more level of the tree; `left = left = …` nests as parentheses do.
    fn deeper(&mut self) -> Result<(), ParseError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            Err(self.error("the expression nests too deeply"))
        } else {
            Ok(())
        }
    }

    fn equality(&mut self) -> Result<Node, ParseError> {
        let mut left = self.comparison()?;
        let depth = self.depth;
        loop {
            self.deeper()?;
            if self.take("=") {
                left = self.equals(left)?;
            } else if self.take("<>") {
                left = Node::Not(Box::new(self.equals(left)?));
            } else if self.take("IS") {
                let negated = self.take("NOT");
                self.expect("NULL")?;
                let is_null = Node::Equal(Box::new(left), Box::new(Node::Null));
                left = if negated {
                    Node::Not(Box::new(is_null))
                } else {
                    is_null
                };
            } else {
                self.depth = depth;
                return Ok(left);
            }
        }
    }

    fn equals(&mut self, left: Node) -> Result<Node, ParseError> {
        let right = self.comparison()?;
        if left == Node::Null || right == Node::Null {
            return Err(self.error("NULL is compared with IS NULL or IS NOT NULL"));
        }
        Ok(Node::Equal(Box::new(left), Box::new(right)))
    }

    fn comparison(&mut self) -> Result<Node, ParseError> {
        let mut left = self.unary()?;
        let depth = self.depth;
        loop {
            self.deeper()?;
            let order = [
                (">", Order::Greater),
                (">=", Order::GreaterOrEqual),
                ("<", Order::Less),
                ("<=", Order::LessOrEqual),
            ]
            .into_iter()
            .find(|(symbol, _)| self.take(symbol));
            if let Some((_, order)) = order {
                let right = self.unary()?;
                left = self.ordered(order, left, right)?;
                continue;
            }
            let before = self.at;
            let negated = self.take("NOT");
            if self.take("BETWEEN") {
                left = self.between(left, negated)?;
            } else if self.take("IN") {
                left = self.is_in(left, negated)?;
            } else if let Some(kind) = self.match_kind() {
                left = Node::Match {
                    kind,
                    of: Box::new(left),
                    text: self.text()?,
                    negated,
                };
            } else {
                self.at = before;
                self.depth = depth;
                return Ok(left);
            }
        }
    }

    fn ordered(&self, order: Order, left: Node, right: Node) -> Result<Node, ParseError> {
        for side in [&left, &right] {
            if side.is_condition() || matches!(side, Node::Text(_)) {
                return Err(self.error("only numbers and properties have an order"));
            }
        }
        Ok(Node::Order(order, Box::new(left), Box::new(right)))
    }

    fn between(&mut self, value: Node, negated: bool) -> Result<Node, ParseError> {
        let low = self.unary()?;
        self.expect("AND")?;
        let high = self.unary()?;
        if let (Some(from), Some(to)) = (low.number(), high.number())
            && from > to
        {
            return Err(self.error("the first bound of BETWEEN is above the second"));
        }
        let (below, above) = if negated {
            (Order::Less, Order::Greater)
        } else {
            (Order::GreaterOrEqual, Order::LessOrEqual)
        };
        let sides = vec![
            self.ordered(below, value.clone(), low)?,
            self.ordered(above, value, high)?,
        ];
        Ok(if negated {
            Node::Or(sides)
        } else {
            Node::And(sides)
        })
    }

    fn is_in(&mut self, left: Node, negated: bool) -> Result<Node, ParseError> {
        let Node::Property(property) = left else {
            return Err(self.error("IN wants a property on its left"));
        };
        self.expect("(")?;
        let mut texts = HashSet::from([self.text()?]);
        while self.take(",") {
            texts.insert(self.text()?);
        }
        self.expect(")")?;
        Ok(Node::In {
            property,
            texts,
            negated,
        })
    }

    fn match_kind(&mut self) -> Option<Match> {
        [
            ("CONTAINS", Match::Contains),
            ("STARTSWITH", Match::StartsWith),
            ("ENDSWITH", Match::EndsWith),
        ]
        .into_iter()
        .find(|(word, _)| self.take(word))
        .map(|(_, kind)| kind)
    }

    fn unary(&mut self) -> Result<Node, ParseError> {
        self.deeper()?;
        let node = if self.take("+") {
            self.unary()
        } else if self.take("-") {
            self.unary().map(|inner| Node::Negate(Box::new(inner)))
        } else if self.take("NOT") {
            let inner = self.unary()?;
            self.condition(inner)
                .map(|inner| Node::Not(Box::new(inner)))
        } else {
            self.primary()
        };
        self.depth -= 1;
        node
    }

    fn primary(&mut self) -> Result<Node, ParseError> {
        if self.take("(") {
            let inner = self.or()?;
            self.expect(")")?;
            return Ok(inner);
        }
        let node = match self.peek() {
            Some(Token::Text(text)) => Node::Text(text.clone()),
            Some(Token::Int(value)) => Node::Int(*value),
            Some(Token::Float(value)) => Node::Float(*value),
            Some(Token::Name(name)) => Node::Property(name.clone()),
            Some(Token::Word("TRUE")) => Node::Bool(true),
            Some(Token::Word("FALSE")) => Node::Bool(false),
            Some(Token::Word("NULL")) => Node::Null,
            Some(other) => return Err(self.error(&format!("expected a value, found {other}"))),
            None => return Err(self.error("expected a value, found the end")),
        };
        self.at += 1;
        Ok(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: [(&str, &str); 7] = [
        ("age", "20"),
        ("price", "3.5"),
        ("city", "Oslo"),
        ("vip", "true"),
        ("name", "it's"),
        ("TAGS", "T"),
        ("word", "abc"),
    ];

    fn matches(expression: &str) -> bool {
        Expression::parse(expression)
            .unwrap_or_else(|e| panic!("{expression}: {e}"))
            .matches(|name| {
                RECORD
                    .iter()
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| *value)
            })
    }

    #[test]
    fn what_holds_for_the_record() {
        for expression in [
            "age > 15",
            "age>=20 AND age <= 20",
            "age BETWEEN 20 AND 30",
            "age NOT BETWEEN 21 AND 30",
            "age = 20",
            "20 = age",
            "age <> 21",
            "-age = -20 OR age = +20",
            "price > 3.4 AND price < 3.6",
            "price > 3.",
            "city = 'Oslo' or missing = 1",
            "city IN ('Rome', 'Oslo')",
            "city NOT IN ('Rome')",
            "missing IS NULL",
            "city IS NOT NULL",
            "NOT (age > 30)",
            "vip = TRUE",
            "TRUE = vip",
            "name = 'it''s'",
            "TAGS = 'T' and (age = 1 OR age = 20)",
            "word CONTAINS 'b' AND word STARTSWITH 'a' AND word ENDSWITH 'c' AND word NOT CONTAINS 'x'",
            "TRUE",
            "/* why */ age = 20 -- because",
            "age < 9223372036854775807",
            "age > 1e1 AND age < .5E3",
            "price > 0.0",
        ] {
            assert!(matches(expression), "{expression}");
        }
    }

    #[test]
    fn what_does_not() {
        for expression in [
            "age > 20",
            "missing > 1",
            "NOT (missing > 1)",
            "missing = 'x'",
            "NOT (missing = 'x')",
            "missing <> 'x'",
            "missing NOT IN ('x')",
            "missing NOT CONTAINS 'x'",
            "word CONTAINS ''",
            "city = 'oslo'",
            "vip",
            "NULL",
            "FALSE",
            "age = 20.5",
            "missing IS NULL AND age = 21",
        ] {
            assert!(!matches(expression), "{expression}");
        }
    }

    #[test]
    fn a_text_that_is_no_number_makes_the_whole_expression_not_match() {
        assert!(!matches("word > 1 OR age = 20"));
        assert!(!matches("city > word OR age = 20"));
        assert!(
            matches("age = 20 OR word > 1"),
            "the right side is not looked at"
        );
    }

    #[test]
    fn what_does_not_parse_is_refused_with_its_place() {
        for (expression, at) in [
            ("", 0),
            ("age =", 5),
            ("age > 'x'", 9),
            ("age > TRUE", 10),
            ("age = NULL", 10),
            ("5", 1),
            ("'x'", 3),
            ("age BETWEEN 3 AND 1", 19),
            ("age IN (1)", 8),
            ("5 IN ('x')", 5),
            ("(age > 1", 8),
            ("age > 1 garbage", 8),
            ("age # 1", 4),
            ("name = 'x", 7),
            ("/* x", 0),
            ("age > 99999999999999999999", 6),
            ("age = .", 6),
        ] {
            let refused = Expression::parse(expression).expect_err(expression);
            assert_eq!(refused.at, at, "{expression}: {refused}");
        }
    }

    #[test]
    fn nesting_and_length_are_bounded() {
        let deep = format!("{}age = 1{}", "(".repeat(5_000), ")".repeat(5_000));
        assert!(Expression::parse(&deep).is_err());
        assert!(Expression::parse(&"NOT ".repeat(5_000)).is_err());
        assert!(Expression::parse(&"a = 1 OR ".repeat(50_000)).is_err());
        assert!(Expression::parse(&format!("a{}", " = 1".repeat(5_000))).is_err());
        assert!(Expression::parse(&format!("a{}", " IS NULL".repeat(3_000))).is_err());
        let long = format!("{} a = 1", "a = 1 OR ".repeat(3_000));
        let parsed = Expression::parse(&long).unwrap();
        assert!(!parsed.matches(|_| Some("2")));
    }
}
