//! Strings with wildcards and policy variables, and ARNs of them.
//!
//! IAM User Guide, "Variables and tags", "Using wildcards in resource ARNs", "ARN condition operators".

use super::Version;
use super::error::Malformed;
use super::values::Values;

/// The most characters of one pattern. With it, the steps that a match takes are bounded by this times the length of
/// the text.
pub const PATTERN_CHARS_MAX: usize = 2_048;

/// Parts of an ARN: `arn`, partition, service, region, account, and all the rest.
const ARN_PARTS: usize = 6;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Atom {
    Char(char),
    /// `?`
    One,
    /// `*`
    Any,
    Variable {
        /// In lower case.
        key: String,
        default: Option<String>,
    },
}

/// Whether `*` and `?` stand for others or for themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wildcards {
    Yes,
    No,
}

/// A string of a policy, with what it leaves open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Atom>);

impl Pattern {
    /// Reads a string. Policy variables are those of version 2012-10-17; before it, `${` is text.
    ///
    /// # Errors
    ///
    /// [`Malformed::Variable`]; [`Malformed::TooMany`] beyond [`PATTERN_CHARS_MAX`].
    pub(super) fn parse(
        text: &str,
        version: Version,
        wildcards: Wildcards,
    ) -> Result<Self, Malformed> {
        if text.chars().count() > PATTERN_CHARS_MAX {
            return Err(Malformed::TooMany {
                what: "characters in a value",
                max: PATTERN_CHARS_MAX,
            });
        }
        let mut atoms = Vec::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            if version == Version::V2012
                && let Some(after) = rest.strip_prefix("${")
            {
                let (name, tail) = after
                    .split_once('}')
                    .ok_or_else(|| Malformed::Variable(text.to_owned()))?;
                atoms.push(variable(name).ok_or_else(|| Malformed::Variable(text.to_owned()))?);
                rest = tail;
                continue;
            }
            match (first, wildcards) {
                ('*', Wildcards::Yes) if atoms.last() == Some(&Atom::Any) => {}
                ('*', Wildcards::Yes) => atoms.push(Atom::Any),
                ('?', Wildcards::Yes) => atoms.push(Atom::One),
                (other, _) => atoms.push(Atom::Char(other)),
            }
            rest = rest.get(first.len_utf8()..).unwrap_or_default();
        }
        Ok(Self(atoms))
    }

    /// Whether `text` is what the pattern says. A pattern with a variable that has no value, or several, and no
    /// default is like nothing.
    pub(super) fn matches(&self, text: &str, values: &Values) -> bool {
        let text: Vec<char> = text.chars().collect();
        if self.has_variable() {
            self.expand(values).is_some_and(|atoms| like(&atoms, &text))
        } else {
            like(&self.0, &text)
        }
    }

    /// Whether `text` is the pattern but for the case of letters. For patterns without wildcards.
    pub(super) fn equals_ignoring_case(&self, text: &str, values: &Values) -> bool {
        let lower = |c: char| c.to_lowercase();
        self.expand(values).is_some_and(|atoms| {
            let pattern = atoms.iter().filter_map(|atom| match atom {
                Atom::Char(c) => Some(*c),
                Atom::One | Atom::Any | Atom::Variable { .. } => None,
            });
            pattern.flat_map(lower).eq(text.chars().flat_map(lower))
        })
    }

    fn has_variable(&self) -> bool {
        self.0
            .iter()
            .any(|atom| matches!(atom, Atom::Variable { .. }))
    }

    /// The pattern with the values in place of the variables; a wildcard in a value is text.
    fn expand(&self, values: &Values) -> Option<Vec<Atom>> {
        let mut atoms = Vec::with_capacity(self.0.len());
        for atom in &self.0 {
            let Atom::Variable { key, default } = atom else {
                atoms.push(atom.clone());
                continue;
            };
            let value = match values.find(key) {
                Some([value]) => value,
                None => default.as_ref()?,
                Some(_) => return None,
            };
            atoms.extend(value.chars().map(Atom::Char));
        }
        Some(atoms)
    }
}

/// What stands between `${` and `}`.
fn variable(name: &str) -> Option<Atom> {
    if let "*" | "?" | "$" = name {
        return name.chars().next().map(Atom::Char);
    }
    let (key, default) = match name.split_once(',') {
        None => (name, None),
        Some((key, default)) => {
            let default = default
                .trim_start()
                .strip_prefix('\'')?
                .strip_suffix('\'')?;
            (key, Some(default.to_owned()))
        }
    };
    let is_key = key.contains(':') && !key.contains(['{', '\'', '*', '?']);
    is_key.then(|| Atom::Variable {
        key: key.to_ascii_lowercase(),
        default,
    })
}

/// Leftmost match with one way back, to the last `*`: at most `pattern` times `text` steps, however many `*` there are.
fn like(pattern: &[Atom], text: &[char]) -> bool {
    let (mut at, mut seen) = (0, 0);
    // After the last `*`, and where in the text it is tried from.
    let mut back: Option<(usize, usize)> = None;
    while let Some(&c) = text.get(seen) {
        match pattern.get(at) {
            Some(Atom::Any) => {
                at += 1;
                back = Some((at, seen));
                continue;
            }
            Some(Atom::One) => {
                (at, seen) = (at + 1, seen + 1);
                continue;
            }
            Some(Atom::Char(expected)) if *expected == c => {
                (at, seen) = (at + 1, seen + 1);
                continue;
            }
            Some(Atom::Char(_) | Atom::Variable { .. }) | None => {}
        }
        let Some((after, from)) = back else {
            return false;
        };
        (at, seen) = (after, from + 1);
        back = Some((after, from + 1));
    }
    pattern
        .iter()
        .skip(at)
        .all(|atom| matches!(atom, Atom::Any))
}

/// An ARN, part by part; a `*` never reaches over a colon into the next part. `*` alone is any text at all, and parts
/// that are left out at the end are any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ArnPattern {
    Anything,
    Parts(Vec<Pattern>),
}

impl ArnPattern {
    /// Reads the value of an ARN condition.
    ///
    /// # Errors
    ///
    /// As [`Pattern::parse`].
    pub(super) fn parse(text: &str, version: Version) -> Result<Self, Malformed> {
        if text == "*" {
            return Ok(Self::Anything);
        }
        let Pattern(atoms) = Pattern::parse(text, version, Wildcards::Yes)?;
        // Split before the variables get their values, which may have colons of their own.
        let parts = atoms.splitn(ARN_PARTS, |atom| *atom == Atom::Char(':'));
        Ok(Self::Parts(
            parts.map(|part| Pattern(part.to_vec())).collect(),
        ))
    }

    /// Reads a resource of a statement: `*`, or an ARN whose partition and service are given, with variables in its
    /// last part only.
    ///
    /// # Errors
    ///
    /// [`Malformed::Resource`]; as [`Pattern::parse`].
    pub(super) fn parse_resource(text: &str, version: Version) -> Result<Self, Malformed> {
        let pattern = Self::parse(text, version)?;
        let Self::Parts(parts) = &pattern else {
            return Ok(pattern);
        };
        let is_name = |part: &Pattern| {
            !part.0.is_empty()
                && part.0.iter().all(
                    |atom| matches!(atom, Atom::Char(c) if c.is_ascii_alphanumeric() || *c == '-'),
                )
        };
        let names_a_service = text.starts_with("arn:")
            && parts.len() > 2
            && parts
                .get(1..3)
                .is_some_and(|names| names.iter().all(is_name));
        if !names_a_service {
            return Err(Malformed::Resource(text.to_owned()));
        }
        if parts.iter().take(ARN_PARTS - 1).any(Pattern::has_variable) {
            return Err(Malformed::Variable(text.to_owned()));
        }
        Ok(pattern)
    }

    /// Whether it is `text`. What is no ARN is only like `*`.
    pub(super) fn matches(&self, text: &str, values: &Values) -> bool {
        let Self::Parts(patterns) = self else {
            return true;
        };
        let parts: Vec<&str> = text.splitn(ARN_PARTS, ':').collect();
        parts.len() == ARN_PARTS
            && patterns
                .iter()
                .zip(&parts)
                .all(|(pattern, part)| pattern.matches(part, values))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text, Version::V2012, Wildcards::Yes).expect("a pattern")
    }

    fn is_like(text: &str, of: &str) -> bool {
        pattern(of).matches(text, &Values::default())
    }

    fn values(pairs: &[(&str, &str)]) -> Values {
        let mut values = Values::default();
        for (key, value) in pairs {
            values.add(key, *value);
        }
        values
    }

    #[test]
    fn what_is_not_like_a_pattern_is_not() {
        for (text, of) in [
            ("", "?"),
            ("a", ""),
            ("", "a"),
            ("ab", "?"),
            ("abc", "a*d"),
            ("abcd", "a*c"),
            ("A", "a"),
            ("aab", "a*aab"),
            ("a", "a?"),
            ("ab", "*?b?"),
            ("é", "e"),
            // Composed and decomposed are two texts.
            ("é", "e\u{301}"),
            ("a", "a*b*"),
        ] {
            assert!(!is_like(text, of), "{text:?} is not like {of:?}");
        }
    }

    #[test]
    fn what_is_like_a_pattern_is() {
        for (text, of) in [
            ("", ""),
            ("", "*"),
            ("", "***"),
            ("abc", "*"),
            ("abc", "a*c"),
            ("ac", "a*c"),
            ("abcbc", "a*bc"),
            ("abab", "*ab"),
            ("a*b", "a*b"),
            ("a/b/c", "a*c"),
            ("mississippi", "m*iss*ip*i"),
            ("é", "?"),
            ("𝛼β", "??"),
            ("logs/äöü/x", "logs/*/?"),
            ("a.b", "a?b"),
        ] {
            assert!(is_like(text, of), "{text:?} is like {of:?}");
        }
    }

    #[test]
    fn without_wildcards_a_star_is_a_star() {
        let exact =
            Pattern::parse("a*?", Version::V2012, Wildcards::No).expect("a pattern without");
        assert!(!exact.matches("abc", &Values::default()));
        assert!(exact.matches("a*?", &Values::default()));
    }

    #[test]
    fn many_stars_do_not_take_for_ever() {
        let text = "a".repeat(8 * 1024);
        let stars = format!("{}b", "*a".repeat(PATTERN_CHARS_MAX / 2 - 1));
        let long = format!("*{}b", "a".repeat(PATTERN_CHARS_MAX - 2));
        let ones = format!("*{}b", "?".repeat(PATTERN_CHARS_MAX - 2));
        let before = Instant::now();
        for of in [&stars, &long, &ones] {
            assert!(!is_like(&text, of));
        }
        assert!(is_like(&text, &"*a".repeat(PATTERN_CHARS_MAX / 2)));
        // Backtracking to each star would outlast the universe; this is milliseconds, with room for a slow machine.
        assert!(before.elapsed().as_secs() < 20, "{:?}", before.elapsed());
    }

    #[test]
    fn a_pattern_has_a_limit_at_n_and_not_at_n_plus_one() {
        let parse = |text: &str| Pattern::parse(text, Version::V2012, Wildcards::Yes);
        assert!(parse(&"ä".repeat(PATTERN_CHARS_MAX)).is_ok());
        assert!(parse(&"a".repeat(PATTERN_CHARS_MAX + 1)).is_err());
    }

    #[test]
    fn a_variable_that_is_none_is_malformed() {
        for text in [
            "${aws:username",
            "${}",
            "${username}",
            "${aws:username, default}",
            "${aws:username, 'default}",
            "x${aws:${aws:username}}",
            "${aws:*}",
        ] {
            let parsed = Pattern::parse(text, Version::V2012, Wildcards::Yes);
            assert_eq!(parsed, Err(Malformed::Variable(text.into())), "{text}");
        }
    }

    #[test]
    fn a_variable_without_a_value_is_like_nothing() {
        let home = pattern("home/${aws:username}/*");
        assert!(!home.matches("home//x", &Values::default()));
        assert!(!home.matches("home/${aws:username}/x", &Values::default()));
        // Several values are none.
        let two = values(&[("aws:username", "a"), ("aws:username", "b")]);
        assert!(!home.matches("home/a/x", &two));
        let either = pattern("${aws:TagKeys, 'none'}");
        assert!(!either.matches(
            "none",
            &values(&[("aws:TagKeys", "a"), ("aws:TagKeys", "b")])
        ));
    }

    #[test]
    fn a_variable_takes_its_value_or_its_default() {
        let home = pattern("home/${AWS:UserName}/*");
        let alice = values(&[("aws:username", "alice")]);
        assert!(home.matches("home/alice/x", &alice));
        assert!(!home.matches("home/bob/x", &alice));
        let team = pattern("bucket-${aws:PrincipalTag/team, 'company-wide'}");
        assert!(team.matches("bucket-company-wide", &alice));
        let tagged = values(&[("aws:principaltag/TEAM", "yellow")]);
        assert!(team.matches("bucket-yellow", &tagged));
        assert!(!team.matches("bucket-company-wide", &tagged));
    }

    #[test]
    fn a_wildcard_in_the_value_of_a_variable_is_text() {
        let home = pattern("home/${aws:username}");
        let star = values(&[("aws:username", "*")]);
        assert!(!home.matches("home/bob", &star));
        assert!(home.matches("home/*", &star));
    }

    #[test]
    fn special_characters_are_themselves() {
        let special = pattern("${*}${?}${$}$x");
        assert!(special.matches("*?$$x", &Values::default()));
        assert!(!special.matches("ab$$x", &Values::default()));
    }

    #[test]
    fn before_2012_there_are_no_variables() {
        let old = Pattern::parse("${aws:username}", Version::V2008, Wildcards::Yes)
            .expect("text like any other");
        let alice = values(&[("aws:username", "alice")]);
        assert!(!old.matches("alice", &alice));
        assert!(old.matches("${aws:username}", &alice));
    }

    #[test]
    fn ignoring_case_is_for_all_letters() {
        let exact = |text| Pattern::parse(text, Version::V2012, Wildcards::No).expect("a pattern");
        let none = Values::default();
        assert!(exact("Straße-ÄÖ").equals_ignoring_case("sTRAßE-äö", &none));
        assert!(!exact("abc").equals_ignoring_case("abd", &none));
        assert!(!exact("abc").equals_ignoring_case("ab", &none));
        assert!(!exact("a*").equals_ignoring_case("ab", &none));
    }

    fn arn_like(arn: &str, of: &str) -> bool {
        ArnPattern::parse(of, Version::V2012)
            .expect("a pattern")
            .matches(arn, &values(&[("aws:username", "a:b")]))
    }

    #[test]
    fn a_star_stays_in_its_part_of_an_arn() {
        // The example of "ARN condition operators".
        let arn = "arn:aws:someservice:us-east-2:999999999999:store/abc:111122223333:finance/document.txt";
        assert!(!arn_like(
            arn,
            "arn:aws:someservice:*:111122223333:finance/*"
        ));
        assert!(arn_like(arn, "arn:aws:someservice:*:*:store/*"));
        assert!(!arn_like("arn:aws:s3:::b/k", "arn:aws:s3:b/k"));
        assert!(!arn_like("not an arn", "arn:*"));
        assert!(!arn_like("*", "arn:aws:s3:::*"));
        assert!(arn_like("anything", "*"));
    }

    #[test]
    fn parts_that_are_left_out_are_any_and_the_last_part_takes_colons() {
        assert!(arn_like("arn:aws:s3:::b/k", "arn:aws:s3*"));
        assert!(arn_like("arn:aws:s3:::b/k:l", "arn:aws:s3:::b/k:?"));
        assert!(arn_like(
            "arn:aws:s3:::b/a:b",
            "arn:aws:s3:::b/${aws:username}"
        ));
        // A colon in a value makes no new part.
        assert!(!arn_like(
            "arn:aws:s3:a:b:b",
            "arn:aws:s3:${aws:username}:b"
        ));
    }

    #[test]
    fn a_resource_is_a_star_or_an_arn_of_one_service() {
        let parse = |text| ArnPattern::parse_resource(text, Version::V2012);
        for text in [
            "",
            "bucket/*",
            "arn",
            "arn:aws",
            "arn:*:s3:::b",
            "arn:aws:*:::b",
            "arn:aws:s?:::b",
            "arn::s3:::b",
            "**",
        ] {
            assert_eq!(parse(text), Err(Malformed::Resource(text.into())), "{text}");
        }
        let early = "arn:aws:s3:${aws:region}::b";
        assert_eq!(parse(early), Err(Malformed::Variable(early.into())));
        for text in ["*", "arn:aws:s3:::b/*", "arn:aws:kms:*:1:key/${aws:userid}"] {
            assert!(parse(text).is_ok(), "{text}");
        }
    }
}
