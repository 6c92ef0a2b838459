//! What a request says: `Action`, `Version` and the operation's own parameters, with their constraints in AWS's words.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;

use crate::iam::IamError;
use crate::iam::names::{
    NAME_CHARS_MAX, PATH_CHARS_MAX, SHORT_NAME_CHARS_MAX, is_name, is_path, is_policy_path,
};

/// Parameters that one request may have.
const PARAMETERS_MAX: usize = 128;
const ARN_CHARS_MIN: usize = 20;
const ARN_CHARS_MAX: usize = 2048;
const DOCUMENT_CHARS_MAX: usize = 131_072;
const MARKER_CHARS_MAX: usize = 320;
const ITEMS_MAX: u32 = 1000;
const ITEMS_DEFAULT: usize = 100;

/// What a text must be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text {
    min: usize,
    max: usize,
    pattern: &'static str,
    holds: fn(&str) -> bool,
}

const NAME_PATTERN: &str = "[\\w+=,.@-]+";
const PATH_PATTERN: &str = "(\\u002F)|(\\u002F[\\u0021-\\u007E]+\\u002F)";
const DOCUMENT_PATTERN: &str = "[\\u0009\\u000A\\u000D\\u0020-\\u00FF]+";

/// A new name of a user or a role.
pub(super) const SHORT_NAME: Text = Text {
    min: 1,
    max: SHORT_NAME_CHARS_MAX,
    pattern: NAME_PATTERN,
    holds: is_name,
};
/// Any other name.
pub(super) const NAME: Text = Text {
    max: NAME_CHARS_MAX,
    ..SHORT_NAME
};
/// Name of a session.
pub(super) const SESSION_NAME: Text = Text {
    min: 2,
    ..SHORT_NAME
};
/// A path of an entity.
pub(super) const PATH: Text = Text {
    min: 1,
    max: PATH_CHARS_MAX,
    pattern: PATH_PATTERN,
    holds: is_path,
};
/// What paths begin with.
pub(super) const PATH_PREFIX: Text = Text {
    pattern: "\\u002F[\\u0021-\\u007F]*",
    holds: |text| text.starts_with('/') && text.bytes().all(|b| (0x21..=0x7f).contains(&b)),
    ..PATH
};
/// A path of a managed policy.
pub(super) const POLICY_PATH: Text = Text {
    pattern: "((/[A-Za-z0-9\\.,\\+@=_-]+)*)/",
    holds: is_policy_path,
    ..PATH
};
/// A policy.
pub(super) const DOCUMENT: Text = Text {
    min: 1,
    max: DOCUMENT_CHARS_MAX,
    pattern: DOCUMENT_PATTERN,
    holds: is_latin,
};
/// A description.
pub(super) const DESCRIPTION: Text = Text {
    min: 0,
    max: 1000,
    pattern: "[\\u0009\\u000A\\u000D\\u0020-\\u007E\\u00A1-\\u00FF]*",
    holds: |text| is_latin(text) && !text.chars().any(|c| ('\u{7f}'..='\u{a0}').contains(&c)),
};
/// An ARN.
pub(super) const ARN: Text = Text {
    min: ARN_CHARS_MIN,
    max: ARN_CHARS_MAX,
    pattern: DOCUMENT_PATTERN,
    holds: is_latin,
};
/// Id of an access key.
pub(super) const ACCESS_KEY_ID: Text = Text {
    min: 16,
    max: 128,
    pattern: "[\\w]+",
    holds: |text| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'),
};
/// `sts:ExternalId`.
pub(super) const EXTERNAL_ID: Text = Text {
    min: 2,
    max: 1224,
    pattern: "[\\w+=,.@:\\/-]*",
    holds: |text| {
        text.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_+=,.@:/-".contains(&b))
    },
};
const MARKER: Text = Text {
    min: 1,
    max: MARKER_CHARS_MAX,
    pattern: "[\\u0020-\\u00FF]+",
    holds: is_latin,
};

fn is_latin(text: &str) -> bool {
    text.chars()
        .all(|c| matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{ff}'))
}

/// Where a page begins, and how long it is at most.
#[derive(Debug)]
pub(super) struct Paging {
    pub(super) after: Option<String>,
    pub(super) limit: usize,
}

/// The parameters of a request.
#[derive(Debug)]
pub(super) struct Form(BTreeMap<String, String>);

impl Form {
    /// Reads `application/x-www-form-urlencoded`.
    ///
    /// # Errors
    ///
    /// [`IamError::Validation`] when it does not read, has a parameter twice or too many of them.
    pub(super) fn parse(text: &[u8]) -> Result<Self, IamError> {
        let malformed = || IamError::Validation("The query string is malformed".to_owned());
        let text = std::str::from_utf8(text).map_err(|_not_utf8| malformed())?;
        let decode = |part: &str| {
            let part = part.replace('+', " ");
            let decoded = percent_decode_str(&part).decode_utf8();
            decoded.map(String::from).map_err(|_not_utf8| malformed())
        };
        let mut fields = BTreeMap::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if fields.len() >= PARAMETERS_MAX
                || fields.insert(decode(name)?, decode(value)?).is_some()
            {
                return Err(malformed());
            }
        }
        Ok(Self(fields))
    }

    /// A parameter as it came.
    pub(super) fn raw(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The first parameter whose name begins with one of `prefixes`.
    pub(super) fn any_of(&self, prefixes: &[&str]) -> Option<&str> {
        self.0
            .keys()
            .find(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)))
            .map(String::as_str)
    }

    /// A parameter that may be there.
    pub(super) fn text(&self, name: &str, must: &Text) -> Result<Option<&str>, IamError> {
        let Some(text) = self.raw(name) else {
            return Ok(None);
        };
        check(name, text, must)?;
        Ok(Some(text))
    }

    /// A parameter that must be there.
    pub(super) fn required(&self, name: &str, must: &Text) -> Result<&str, IamError> {
        self.text(name, must)?
            .ok_or_else(|| failed("Value null", name, "Member must not be null"))
    }

    /// A number that may be there.
    pub(super) fn number(&self, name: &str, min: u32, max: u32) -> Result<Option<u32>, IamError> {
        let Some(text) = self.raw(name) else {
            return Ok(None);
        };
        let value = format!("Value '{}'", shortened(text));
        let number: i64 = text
            .parse()
            .map_err(|_no_number| failed(&value, name, "Member must be a number"))?;
        if number < min.into() {
            let constraint = format!("Member must have value greater than or equal to {min}");
            return Err(failed(&value, name, &constraint));
        }
        match u32::try_from(number) {
            Ok(number) if number <= max => Ok(Some(number)),
            Ok(_) | Err(_) => {
                let constraint = format!("Member must have value less than or equal to {max}");
                Err(failed(&value, name, &constraint))
            }
        }
    }

    /// A truth value; `false` when it is not there.
    pub(super) fn flag(&self, name: &str) -> Result<bool, IamError> {
        match self.raw(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => {
                let value = format!("Value '{}'", shortened(other));
                Err(failed(&value, name, "Member must be true or false"))
            }
        }
    }

    /// One of a set.
    pub(super) fn one_of(&self, name: &str, set: &[&str]) -> Result<Option<&str>, IamError> {
        match self.raw(name) {
            Some(text) if !set.contains(&text) => {
                let constraint =
                    format!("Member must satisfy enum value set: [{}]", set.join(", "));
                Err(failed(
                    &format!("Value '{}'", shortened(text)),
                    name,
                    &constraint,
                ))
            }
            other => Ok(other),
        }
    }

    /// The members of a list of structures with one text each: `NAME.member.1.FIELD`, ….
    pub(super) fn members(
        &self,
        name: &str,
        field: &str,
        must: &Text,
        max: usize,
    ) -> Result<Vec<String>, IamError> {
        let mut members = Vec::new();
        while let Some(text) = self.text(
            &format!("{name}.member.{}.{field}", members.len() + 1),
            must,
        )? {
            members.push(text.to_owned());
        }
        let given = self
            .0
            .keys()
            .filter(|key| key.starts_with(&format!("{name}.")))
            .count();
        if given != members.len() {
            return Err(failed("Value", name, "Members must be numbered from 1 on"));
        }
        if members.len() > max {
            let constraint = format!("Member must have length less than or equal to {max}");
            return Err(failed("Value", name, &constraint));
        }
        Ok(members)
    }

    /// The members of paging.
    pub(super) fn paging(&self) -> Result<Paging, IamError> {
        let after = match self.text("Marker", &MARKER)? {
            Some(marker) => Some(from_marker(marker)?),
            None => None,
        };
        let limit = self.number("MaxItems", 1, ITEMS_MAX)?;
        Ok(Paging {
            after,
            limit: limit.map_or(ITEMS_DEFAULT, |limit| {
                usize::try_from(limit).unwrap_or(ITEMS_DEFAULT)
            }),
        })
    }
}

/// A cursor as a caller gets it.
pub(super) fn to_marker(cursor: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(cursor)
}

fn from_marker(marker: &str) -> Result<String, IamError> {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(marker)
        .ok()
        .and_then(|cursor| String::from_utf8(cursor).ok())
        .ok_or_else(|| IamError::Validation("Invalid Marker.".to_owned()))
}

fn check(name: &str, text: &str, must: &Text) -> Result<(), IamError> {
    let length = text.chars().count();
    let value = format!("Value '{}'", shortened(text));
    if length < must.min {
        let constraint = format!(
            "Member must have length greater than or equal to {}",
            must.min
        );
        return Err(failed(&value, name, &constraint));
    }
    if length > must.max {
        let constraint = format!("Member must have length less than or equal to {}", must.max);
        return Err(failed(&value, name, &constraint));
    }
    if !(must.holds)(text) && !text.is_empty() {
        let constraint = format!(
            "Member must satisfy regular expression pattern: {}",
            must.pattern
        );
        return Err(failed("Value", name, &constraint));
    }
    Ok(())
}

/// What is repeated of a value: enough to know it by.
fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 256;
    text.chars().take(CHARS_MAX).collect()
}

/// A constraint that does not hold, in AWS's words. It names members with a small letter first.
fn failed(value: &str, name: &str, constraint: &str) -> IamError {
    let mut chars = name.chars();
    let first = chars.next().map(|c| c.to_ascii_lowercase());
    let member: String = first.into_iter().chain(chars).collect();
    IamError::Validation(format!(
        "1 validation error detected: {value} at '{member}' failed to satisfy constraint: {constraint}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(text: &str) -> Form {
        Form::parse(text.as_bytes()).expect("reads")
    }

    #[test]
    fn a_form_reads_percent_encoding_and_plus() {
        let form = form("Action=A&Name=a%2Bb+c&Empty=");
        assert_eq!(form.raw("Name"), Some("a+b c"));
        assert_eq!(form.raw("Empty"), Some(""));
    }

    #[test]
    fn a_parameter_given_twice_is_refused() {
        assert!(Form::parse(b"a=1&a=2").is_err());
        assert!(Form::parse(b"a=%ff").is_err());
    }

    #[test]
    fn parameters_are_bounded() {
        let text = |count: usize| {
            let all: Vec<_> = (0..count).map(|n| format!("p{n}=1")).collect();
            all.join("&")
        };
        assert!(Form::parse(text(PARAMETERS_MAX).as_bytes()).is_ok());
        assert!(Form::parse(text(PARAMETERS_MAX + 1).as_bytes()).is_err());
    }

    #[test]
    fn lengths_are_bounded_at_both_ends() {
        for (length, good) in [(0, false), (1, true), (64, true), (65, false)] {
            let form = form(&format!("UserName={}", "u".repeat(length)));
            assert_eq!(
                form.required("UserName", &SHORT_NAME).is_ok(),
                good,
                "{length}"
            );
        }
        for (length, good) in [(1, false), (2, true), (64, true), (65, false)] {
            let form = form(&format!("RoleSessionName={}", "u".repeat(length)));
            assert_eq!(
                form.required("RoleSessionName", &SESSION_NAME).is_ok(),
                good,
                "{length}"
            );
        }
    }

    #[test]
    fn numbers_are_bounded_at_both_ends() {
        for (number, good) in [
            ("899", false),
            ("900", true),
            ("43200", true),
            ("43201", false),
            ("x", false),
            ("-900", false),
        ] {
            let form = form(&format!("DurationSeconds={number}"));
            assert_eq!(
                form.number("DurationSeconds", 900, 43_200).is_ok(),
                good,
                "{number}"
            );
        }
    }

    #[test]
    fn a_constraint_is_named_in_the_words_of_aws() {
        let error = form("UserName=")
            .required("UserName", &NAME)
            .expect_err("empty");
        assert_eq!(
            error.to_string(),
            "1 validation error detected: Value '' at 'userName' failed to satisfy constraint: Member must have length \
             greater than or equal to 1"
        );
    }

    #[test]
    fn members_are_read_in_order_and_without_gaps() {
        let all = form(
            "P.member.1.arn=arn:aws:iam::aws:policy/A&P.member.2.arn=arn:aws:iam::aws:policy/B",
        );
        assert_eq!(all.members("P", "arn", &ARN, 2).expect("two").len(), 2);
        assert!(all.members("P", "arn", &ARN, 1).is_err());
        let gap = form("P.member.2.arn=arn:aws:iam::aws:policy/B");
        assert!(gap.members("P", "arn", &ARN, 10).is_err());
    }

    #[test]
    fn a_marker_comes_back() {
        let text = format!("Marker={}", to_marker("bob"));
        assert_eq!(
            form(&text).paging().expect("reads").after.as_deref(),
            Some("bob")
        );
        assert!(form("Marker=!").paging().is_err());
    }
}
