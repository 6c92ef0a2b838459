//! Conditions: an operator, a key, and the values it is held against.
//!
//! IAM User Guide, "Condition operators" and "Single-valued vs. multivalued context keys". Several values of a policy
//! are alternatives; under a negated operator none of them may match. A key that is missing from the request matches
//! nothing, so a negated operator holds; `IfExists` holds; `ForAllValues` holds and `ForAnyValue` does not.

use std::cmp::Ordering;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use time::OffsetDateTime;

use super::Version;
use super::error::Malformed;
use super::operand::{Decimal, Network, parse_date};
use super::pattern::{ArnPattern, Pattern, Wildcards};
use super::steps::Steps;
use super::values::Values;

/// One operator held against one key.
#[derive(Debug)]
pub(super) struct Condition {
    /// In lower case.
    key: String,
    quantifier: Quantifier,
    if_exists: bool,
    negated: bool,
    test: Test,
}

/// Which of the request's values must pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quantifier {
    /// No set operator: made for keys with one value; with several, one that matches is enough.
    Plain,
    Any,
    All,
}

/// What a value is compared with: the values of the policy, of which one is enough.
#[derive(Debug)]
enum Test {
    Text(Vec<Pattern>),
    TextIgnoringCase(Vec<Pattern>),
    Number(Comparison, Vec<Decimal>),
    Date(Comparison, Vec<OffsetDateTime>),
    Bool(Vec<bool>),
    Binary(Vec<Vec<u8>>),
    Address(Vec<Network>),
    Arn(Vec<ArnPattern>),
    /// Whether the key may be missing, or present.
    Null(Vec<bool>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equals,
    Less,
    LessEquals,
    Greater,
    GreaterEquals,
}

impl Comparison {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "Equals" | "NotEquals" => Self::Equals,
            "LessThan" => Self::Less,
            "LessThanEquals" => Self::LessEquals,
            "GreaterThan" => Self::Greater,
            "GreaterThanEquals" => Self::GreaterEquals,
            _ => return None,
        })
    }

    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Self::Equals => ordering.is_eq(),
            Self::Less => ordering.is_lt(),
            Self::LessEquals => ordering.is_le(),
            Self::Greater => ordering.is_gt(),
            Self::GreaterEquals => ordering.is_ge(),
        }
    }
}

impl Condition {
    /// The condition of one operator and one key, whose values are texts.
    ///
    /// # Errors
    ///
    /// [`Malformed`], which says what the operator, the key or a value lacks.
    pub(super) fn parse(
        operator: &str,
        key: &str,
        values: &[String],
        version: Version,
    ) -> Result<Self, Malformed> {
        let unknown = || Malformed::Operator(operator.to_owned());
        let (quantifier, name) = match operator.split_once(':') {
            None => (Quantifier::Plain, operator),
            Some(("ForAnyValue", name)) => (Quantifier::Any, name),
            Some(("ForAllValues", name)) => (Quantifier::All, name),
            Some(_) => return Err(unknown()),
        };
        let (name, if_exists) = match name.strip_suffix("IfExists") {
            Some(name) => (name, true),
            None => (name, false),
        };
        if name == "Null" && (if_exists || quantifier != Quantifier::Plain) {
            return Err(unknown());
        }
        let is_key = key
            .split_once(':')
            .is_some_and(|(vendor, name)| !vendor.is_empty() && !name.is_empty());
        if !is_key {
            return Err(Malformed::Key(key.to_owned()));
        }
        let reader = Reader {
            operator,
            values,
            version,
        };
        Ok(Self {
            key: key.to_ascii_lowercase(),
            quantifier,
            if_exists,
            negated: name.contains("Not"),
            test: reader.test(name)?.ok_or_else(unknown)?,
        })
    }

    /// How many values it is held against.
    pub(super) fn values(&self) -> usize {
        self.test.values()
    }

    /// Whether the request is as the condition says.
    pub(super) fn holds(&self, request: &Values, steps: &Steps) -> bool {
        let found = request.find(&self.key).unwrap_or_default();
        let is_null = found.iter().all(String::is_empty);
        if let Test::Null(wanted) = &self.test {
            return wanted.contains(&is_null);
        }
        let matches = |value: &String| self.test.matches(value, request, steps);
        let passes = |value: &String| matches(value) != self.negated;
        match self.quantifier {
            Quantifier::Plain if found.is_empty() => self.if_exists || self.negated,
            Quantifier::Plain => found.iter().any(matches) != self.negated,
            // For a set operator, empty values are no values.
            Quantifier::Any if is_null => self.if_exists,
            Quantifier::Any => found.iter().any(passes),
            Quantifier::All => is_null || found.iter().all(passes),
        }
    }
}

impl Test {
    fn values(&self) -> usize {
        match self {
            Self::Text(values) | Self::TextIgnoringCase(values) => values.len(),
            Self::Number(_, values) => values.len(),
            Self::Date(_, values) => values.len(),
            Self::Bool(values) | Self::Null(values) => values.len(),
            Self::Binary(values) => values.len(),
            Self::Address(values) => values.len(),
            Self::Arn(values) => values.len(),
        }
    }

    /// Whether a value of the request is one of the policy's. What cannot be read as a value of this type is none.
    fn matches(&self, value: &str, request: &Values, steps: &Steps) -> bool {
        if !steps.take(self.values() + value.len()) {
            return false;
        }
        match self {
            Self::Text(patterns) => patterns
                .iter()
                .any(|pattern| pattern.matches(value, request, steps)),
            Self::TextIgnoringCase(patterns) => patterns
                .iter()
                .any(|pattern| pattern.equals_ignoring_case(value, request, steps)),
            Self::Number(comparison, numbers) => Decimal::parse(value).is_some_and(|value| {
                numbers
                    .iter()
                    .any(|number| comparison.holds(value.cmp(number)))
            }),
            Self::Date(comparison, dates) => parse_date(value)
                .is_some_and(|value| dates.iter().any(|date| comparison.holds(value.cmp(date)))),
            Self::Bool(wanted) => parse_bool(value).is_some_and(|value| wanted.contains(&value)),
            Self::Binary(wanted) => STANDARD
                .decode(value)
                .is_ok_and(|value| wanted.contains(&value)),
            Self::Address(networks) => value
                .parse::<IpAddr>()
                .is_ok_and(|address| networks.iter().any(|network| network.contains(address))),
            Self::Arn(patterns) => patterns
                .iter()
                .any(|pattern| pattern.matches(value, request, steps)),
            Self::Null(_) => false,
        }
    }
}

/// Reads the values that an operator is given.
struct Reader<'a> {
    operator: &'a str,
    values: &'a [String],
    version: Version,
}

impl Reader<'_> {
    /// The test of an operator without its prefix and suffix; `None` if there is no such operator.
    fn test(&self, name: &str) -> Result<Option<Test>, Malformed> {
        Ok(Some(match name {
            "StringEquals" | "StringNotEquals" => Test::Text(self.patterns(Wildcards::No)?),
            "StringEqualsIgnoreCase" | "StringNotEqualsIgnoreCase" => {
                Test::TextIgnoringCase(self.patterns(Wildcards::No)?)
            }
            "StringLike" | "StringNotLike" => Test::Text(self.patterns(Wildcards::Yes)?),
            "Bool" => Test::Bool(self.each(parse_bool)?),
            "Null" => Test::Null(self.each(parse_bool)?),
            "BinaryEquals" => Test::Binary(self.each(|value| STANDARD.decode(value).ok())?),
            "IpAddress" | "NotIpAddress" => Test::Address(self.each(Network::parse)?),
            "ArnEquals" | "ArnLike" | "ArnNotEquals" | "ArnNotLike" => {
                let parse = |value: &String| ArnPattern::parse(value, self.version);
                Test::Arn(self.values.iter().map(parse).collect::<Result<_, _>>()?)
            }
            _ => return self.comparison(name),
        }))
    }

    fn comparison(&self, name: &str) -> Result<Option<Test>, Malformed> {
        if let Some(comparison) = name.strip_prefix("Numeric").and_then(Comparison::parse) {
            return Ok(Some(Test::Number(comparison, self.each(Decimal::parse)?)));
        }
        if let Some(comparison) = name.strip_prefix("Date").and_then(Comparison::parse) {
            return Ok(Some(Test::Date(comparison, self.each(parse_date)?)));
        }
        Ok(None)
    }

    fn patterns(&self, wildcards: Wildcards) -> Result<Vec<Pattern>, Malformed> {
        self.values
            .iter()
            .map(|value| Pattern::parse(value, self.version, wildcards))
            .collect()
    }

    fn each<T>(&self, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, Malformed> {
        let value = |value: &String| {
            parse(value).ok_or_else(|| Malformed::Value {
                operator: self.operator.to_owned(),
                value: value.clone(),
            })
        };
        self.values.iter().map(value).collect()
    }
}

fn parse_bool(text: &str) -> Option<bool> {
    match text {
        _ if text.eq_ignore_ascii_case("true") => Some(true),
        _ if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}
