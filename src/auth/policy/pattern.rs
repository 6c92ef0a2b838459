//! Strings with wildcards and policy variables, and ARNs of them.
//!
//! IAM User Guide, "Variables and tags", "Using wildcards in resource ARNs", "ARN condition operators".

use std::str::Chars;

use super::Version;
use super::error::Malformed;
use super::steps::Steps;
use super::values::Values;

/// The most characters of one pattern.
pub const PATTERN_CHARS_MAX: usize = 2_048;

/// Parts of an ARN: `arn`, partition, service, region, account, and all the rest.
const ARN_PARTS: usize = 6;

/// What a pattern is made of. Policies have many, and are kept parsed: none takes more room than a character does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Atom {
    Char(char),
    /// `?`
    One,
    /// `*`
    Any,
    /// The next of the pattern's variables.
    Variable,
}

const _: () = assert!(size_of::<Atom>() == size_of::<char>());

/// A policy variable.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Variable {
    /// In lower case.
    key: Box<str>,
    default: Option<Box<str>>,
}

impl Atom {
    /// Whether it stands for this one character.
    fn is(self, c: char) -> bool {
        match self {
            Self::Char(expected) => expected == c,
            Self::One => true,
            Self::Any | Self::Variable => false,
        }
    }
}

/// Whether `*` and `?` stand for others or for themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wildcards {
    Yes,
    No,
}

/// A string of a policy, with what it leaves open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    atoms: Box<[Atom]>,
    /// In the order of their atoms.
    variables: Box<[Variable]>,
}

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
        let (mut atoms, mut variables) = (Vec::new(), Vec::new());
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            if version == Version::V2012
                && let Some(after) = rest.strip_prefix("${")
            {
                let (name, tail) = after
                    .split_once('}')
                    .ok_or_else(|| Malformed::Variable(text.to_owned()))?;
                let (atom, variable) =
                    variable(name).ok_or_else(|| Malformed::Variable(text.to_owned()))?;
                atoms.push(atom);
                variables.extend(variable);
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
        Ok(Self {
            atoms: atoms.into(),
            variables: variables.into(),
        })
    }

    /// Whether `text` is what the pattern says. A pattern with a variable that has no value, or several, and no
    /// default is like nothing; so is any pattern once the steps are used up.
    pub(super) fn matches(&self, text: &str, values: &Values, steps: &Steps) -> bool {
        if self.variables.is_empty() {
            like(&self.atoms, text, steps)
        } else {
            self.expand(values, steps)
                .is_some_and(|atoms| like(&atoms, text, steps))
        }
    }

    /// Whether `text` is the pattern but for the case of letters. For patterns without wildcards.
    pub(super) fn equals_ignoring_case(&self, text: &str, values: &Values, steps: &Steps) -> bool {
        let lower = |c: char| c.to_lowercase();
        self.expand(values, steps).is_some_and(|atoms| {
            let pattern = atoms.iter().filter_map(|atom| match atom {
                Atom::Char(c) => Some(*c),
                Atom::One | Atom::Any | Atom::Variable => None,
            });
            pattern.flat_map(lower).eq(text.chars().flat_map(lower))
        })
    }

    /// The pattern with the values in place of the variables; a wildcard in a value is text.
    fn expand(&self, values: &Values, steps: &Steps) -> Option<Vec<Atom>> {
        let mut atoms = Vec::with_capacity(self.atoms.len());
        let mut variables = self.variables.iter();
        for atom in &self.atoms {
            if !steps.take(1) {
                return None;
            }
            if *atom != Atom::Variable {
                atoms.push(*atom);
                continue;
            }
            let Variable { key, default } = variables.next()?;
            let value = match values.find(key) {
                Some([value]) => value.as_str(),
                None => default.as_deref()?,
                Some(_) => return None,
            };
            if !steps.take(value.len()) {
                return None;
            }
            atoms.extend(value.chars().map(Atom::Char));
        }
        Some(atoms)
    }
}

/// What stands between `${` and `}`: a character that would else be special, or a variable.
fn variable(name: &str) -> Option<(Atom, Option<Variable>)> {
    if let "*" | "?" | "$" = name {
        return name.chars().next().map(|c| (Atom::Char(c), None));
    }
    let (key, default) = match name.split_once(',') {
        None => (name, None),
        Some((key, default)) => {
            let default = default
                .trim_start()
                .strip_prefix('\'')?
                .strip_suffix('\'')?;
            (key, Some(default.into()))
        }
    };
    let is_key = key.contains(':') && !key.contains(['{', '\'', '*', '?']);
    let variable = || Variable {
        key: key.to_ascii_lowercase().into(),
        default,
    };
    is_key.then(|| (Atom::Variable, Some(variable())))
}

/// What stands before the first `*` and after the last is held against the ends of the text; what stands between two is
/// looked for from the left, each where the last was found. Long texts between two `*` take their length times the
/// text's, and nothing takes more.
fn like(pattern: &[Atom], text: &str, steps: &Steps) -> bool {
    let mut pattern = pattern;
    let mut rest = text.chars();
    loop {
        let Some((first, after)) = pattern.split_first() else {
            return rest.next().is_none();
        };
        pattern = after;
        if *first == Atom::Any {
            break;
        }
        if !steps.take(1) || !rest.next().is_some_and(|c| first.is(c)) {
            return false;
        }
    }
    loop {
        let Some((last, before)) = pattern.split_last() else {
            return true;
        };
        pattern = before;
        if *last == Atom::Any {
            break;
        }
        if !steps.take(1) || !rest.next_back().is_some_and(|c| last.is(c)) {
            return false;
        }
    }
    pattern
        .split(|atom| *atom == Atom::Any)
        .all(|part| skip_past(part, &mut rest, steps))
}

/// Goes on to where `part` first ends in `rest`. `false`: it is not there.
fn skip_past(part: &[Atom], rest: &mut Chars<'_>, steps: &Steps) -> bool {
    loop {
        let mut ahead = rest.clone();
        let mut is_here = true;
        for atom in part {
            if !steps.take(1) {
                return false;
            }
            match ahead.next() {
                Some(c) if atom.is(c) => {}
                Some(_) => {
                    is_here = false;
                    break;
                }
                // Nor is there room for it further on.
                None => return false,
            }
        }
        if is_here {
            *rest = ahead;
            return true;
        }
        rest.next();
    }
}

/// An ARN, part by part; a `*` never reaches over a colon into the next part. `*` alone is any text at all, and parts
/// that are left out at the end are any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ArnPattern {
    Anything,
    Parts(Box<[Pattern]>),
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
        let Pattern { atoms, variables } = Pattern::parse(text, version, Wildcards::Yes)?;
        // Split before the variables get their values, which may have colons of their own.
        let parts = atoms.splitn(ARN_PARTS, |atom| *atom == Atom::Char(':'));
        let mut variables = variables.into_iter();
        let pattern = |part: &[Atom]| {
            let has = part.iter().filter(|atom| **atom == Atom::Variable).count();
            Pattern {
                atoms: part.into(),
                variables: variables.by_ref().take(has).collect(),
            }
        };
        Ok(Self::Parts(parts.map(pattern).collect()))
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
            !part.atoms.is_empty()
                && part.atoms.iter().all(
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
        if parts
            .iter()
            .take(ARN_PARTS - 1)
            .any(|part| !part.variables.is_empty())
        {
            return Err(Malformed::Variable(text.to_owned()));
        }
        Ok(pattern)
    }

    /// Whether it is `text`. What is no ARN is only like `*`.
    pub(super) fn matches(&self, text: &str, values: &Values, steps: &Steps) -> bool {
        let Self::Parts(patterns) = self else {
            return true;
        };
        let parts: Vec<&str> = text.splitn(ARN_PARTS, ':').collect();
        parts.len() == ARN_PARTS
            && patterns
                .iter()
                .zip(&parts)
                .all(|(pattern, part)| pattern.matches(part, values, steps))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::policy::STEPS_MAX;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text, Version::V2012, Wildcards::Yes).expect("a pattern")
    }

    fn is_like(text: &str, of: &str) -> bool {
        pattern(of).matches(text, &Values::default(), &Steps::default())
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
        assert!(!exact.matches("abc", &Values::default(), &Steps::default()));
        assert!(exact.matches("a*?", &Values::default(), &Steps::default()));
    }

    /// Whether `text` is like the pattern, and in how many steps that was found.
    fn steps(text: &str, of: &str) -> (bool, usize) {
        let steps = Steps::default();
        let is_like = pattern(of).matches(text, &Values::default(), &steps);
        assert!(!steps.exhausted(), "{of}");
        (is_like, STEPS_MAX - steps.left())
    }

    #[test]
    fn many_stars_take_one_way_through_the_text() {
        let text = "a".repeat(8 * 1024);
        let stars = "*a".repeat(PATTERN_CHARS_MAX / 2 - 1);
        for (of, expected) in [
            (format!("{stars}b"), false),
            (format!("{stars}b*"), false),
            (format!("{stars}*"), true),
            (format!("a{stars}"), true),
            (format!("*{}b", "a".repeat(PATTERN_CHARS_MAX - 2)), false),
            (format!("*{}", "?".repeat(PATTERN_CHARS_MAX - 1)), true),
            (format!("{}*", "a".repeat(PATTERN_CHARS_MAX - 1)), true),
            ("*".to_owned(), true),
        ] {
            let (is_like, steps) = steps(&text, &of);
            assert_eq!(is_like, expected, "{of}");
            // The longest part between two stars has two characters.
            assert!(steps <= of.len() + 2 * text.len(), "{of}: {steps}");
        }
    }

    #[test]
    fn a_pattern_without_a_middle_takes_no_more_steps_than_it_is_long() {
        let text = format!("arn:aws:s3:::b/{}.jpg", "x".repeat(1_024));
        for (of, expected) in [
            ("arn:aws:s3:::b/*", true),
            ("arn:aws:s3:::b/*.jpg", true),
            ("arn:aws:s3:::b/*.png", false),
            ("arn:aws:s3:::c/*", false),
        ] {
            let (is_like, steps) = steps(&text, of);
            assert_eq!(is_like, expected, "{of}");
            assert!(steps <= of.len(), "{of}: {steps}");
        }
    }

    #[test]
    fn the_last_step_is_enough_and_one_less_is_not() {
        let (text, of) = ("aaab", pattern("*aab*"));
        let none = Values::default();
        // Three at the first place, the last of them in vain, and three at the second.
        let enough = Steps::new(6);
        assert!(of.matches(text, &none, &enough) && !enough.exhausted());
        let one_less = Steps::new(5);
        assert!(!of.matches(text, &none, &one_less) && one_less.exhausted());
        // And none is left, for what comes then.
        assert!(!pattern("a").matches("a", &none, &one_less));
        let variable = pattern("${aws:username}");
        let alice = values(&[("aws:username", "alice")]);
        let few = Steps::new(10);
        assert!(!variable.matches("alice", &alice, &few) && few.exhausted());
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
        assert!(!home.matches("home//x", &Values::default(), &Steps::default()));
        assert!(!home.matches(
            "home/${aws:username}/x",
            &Values::default(),
            &Steps::default()
        ));
        // Several values are none.
        let two = values(&[("aws:username", "a"), ("aws:username", "b")]);
        assert!(!home.matches("home/a/x", &two, &Steps::default()));
        let either = pattern("${aws:TagKeys, 'none'}");
        assert!(!either.matches(
            "none",
            &values(&[("aws:TagKeys", "a"), ("aws:TagKeys", "b")]),
            &Steps::default()
        ));
    }

    #[test]
    fn a_variable_takes_its_value_or_its_default() {
        let home = pattern("home/${AWS:UserName}/*");
        let alice = values(&[("aws:username", "alice")]);
        assert!(home.matches("home/alice/x", &alice, &Steps::default()));
        assert!(!home.matches("home/bob/x", &alice, &Steps::default()));
        let team = pattern("bucket-${aws:PrincipalTag/team, 'company-wide'}");
        assert!(team.matches("bucket-company-wide", &alice, &Steps::default()));
        let tagged = values(&[("aws:principaltag/TEAM", "yellow")]);
        assert!(team.matches("bucket-yellow", &tagged, &Steps::default()));
        assert!(!team.matches("bucket-company-wide", &tagged, &Steps::default()));
    }

    #[test]
    fn a_wildcard_in_the_value_of_a_variable_is_text() {
        let home = pattern("home/${aws:username}");
        let star = values(&[("aws:username", "*")]);
        assert!(!home.matches("home/bob", &star, &Steps::default()));
        assert!(home.matches("home/*", &star, &Steps::default()));
    }

    #[test]
    fn special_characters_are_themselves() {
        let special = pattern("${*}${?}${$}$x");
        assert!(special.matches("*?$$x", &Values::default(), &Steps::default()));
        assert!(!special.matches("ab$$x", &Values::default(), &Steps::default()));
    }

    #[test]
    fn before_2012_there_are_no_variables() {
        let old = Pattern::parse("${aws:username}", Version::V2008, Wildcards::Yes)
            .expect("text like any other");
        let alice = values(&[("aws:username", "alice")]);
        assert!(!old.matches("alice", &alice, &Steps::default()));
        assert!(old.matches("${aws:username}", &alice, &Steps::default()));
    }

    #[test]
    fn ignoring_case_is_for_all_letters() {
        let exact = |text| Pattern::parse(text, Version::V2012, Wildcards::No).expect("a pattern");
        let none = Values::default();
        assert!(exact("Straße-ÄÖ").equals_ignoring_case("sTRAßE-äö", &none, &Steps::default()));
        assert!(!exact("abc").equals_ignoring_case("abd", &none, &Steps::default()));
        assert!(!exact("abc").equals_ignoring_case("ab", &none, &Steps::default()));
        assert!(!exact("a*").equals_ignoring_case("ab", &none, &Steps::default()));
    }

    fn arn_like(arn: &str, of: &str) -> bool {
        ArnPattern::parse(of, Version::V2012)
            .expect("a pattern")
            .matches(arn, &values(&[("aws:username", "a:b")]), &Steps::default())
    }

    #[test]
    fn each_part_of_an_arn_has_its_own_variables() {
        let of = "arn:aws:s3:${aws:requestedregion}:${aws:principalaccount, '1'}:${aws:username}/${aws:userid}";
        let pattern = ArnPattern::parse(of, Version::V2012).expect("a pattern");
        let of = values(&[
            ("aws:requestedregion", "r"),
            ("aws:username", "ann"),
            ("aws:userid", "AIDA"),
        ]);
        let is_like = |arn| pattern.matches(arn, &of, &Steps::default());
        assert!(is_like("arn:aws:s3:r:1:ann/AIDA"));
        assert!(!is_like("arn:aws:s3:r:1:AIDA/ann"));
        assert!(!is_like("arn:aws:s3:1:r:ann/AIDA"));
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
