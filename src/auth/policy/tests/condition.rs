//! Every operator, through a whole policy: what does not hold first.

use super::alice;
use crate::auth::policy::{Decision, Question, RequestSteps, Side, Values, decide};

/// Whether a statement with this condition allows a request with these values.
fn holds(condition: &str, request: &[(&str, &str)]) -> bool {
    let policy = format!(
        r#"{{"Version":"2012-10-17","Statement":{{"Effect":"Allow","Action":"*","Resource":"*","Condition":{condition}}}}}"#
    );
    let principal = alice(&[&policy]);
    let mut values = Values::of(&principal);
    for (key, value) in request {
        values.add(key, *value);
    }
    let question = Question {
        principal: &principal,
        canonical_id: None,
        action: "s3:GetObject",
        resource: "arn:aws:s3:::bucket/key",
        values: &values,
        side: Side::None,
    };
    decide(&question, &RequestSteps::default()) == Decision::Allowed
}

/// Holds the operator against `aws:x`, whose one value is `value`.
fn one(operator: &str, policy: &str, value: &str) -> bool {
    holds(
        &format!(r#"{{"{operator}":{{"aws:x":{policy}}}}}"#),
        &[("aws:x", value)],
    )
}

const NEGATED: [(&str, &str); 8] = [
    ("StringNotEquals", r#""a""#),
    ("StringNotEqualsIgnoreCase", r#""a""#),
    ("StringNotLike", r#""a*""#),
    ("NumericNotEquals", "1"),
    ("DateNotEquals", r#""2026-01-01""#),
    ("NotIpAddress", r#""10.0.0.0/8""#),
    ("ArnNotEquals", r#""arn:aws:s3:::b""#),
    ("ArnNotLike", r#""arn:aws:s3:::b""#),
];

const PLAIN: [(&str, &str); 20] = [
    ("StringEquals", r#""a""#),
    ("StringEqualsIgnoreCase", r#""a""#),
    ("StringLike", r#""*""#),
    ("NumericEquals", "1"),
    ("NumericLessThan", "1"),
    ("NumericLessThanEquals", "1"),
    ("NumericGreaterThan", "1"),
    ("NumericGreaterThanEquals", "1"),
    ("DateEquals", r#""2026-01-01""#),
    ("DateLessThan", r#""2026-01-01""#),
    ("DateLessThanEquals", r#""2026-01-01""#),
    ("DateGreaterThan", r#""2026-01-01""#),
    ("DateGreaterThanEquals", r#""2026-01-01""#),
    ("Bool", r#""false""#),
    ("Bool", "true"),
    ("BinaryEquals", r#""YQ==""#),
    ("IpAddress", r#""0.0.0.0/0""#),
    ("ArnEquals", r#""*""#),
    ("ArnLike", r#""*""#),
    ("Null", r#""false""#),
];

#[test]
fn a_missing_key_holds_for_no_operator_that_is_not_negated() {
    for (operator, value) in PLAIN {
        let condition = format!(r#"{{"{operator}":{{"aws:x":{value}}}}}"#);
        assert!(!holds(&condition, &[]), "{condition}");
    }
}

#[test]
fn a_missing_key_holds_for_every_negated_operator() {
    for (operator, value) in NEGATED {
        let condition = format!(r#"{{"{operator}":{{"aws:x":{value}}}}}"#);
        assert!(holds(&condition, &[]), "{condition}");
    }
}

#[test]
fn a_missing_key_holds_for_if_exists_and_for_all_values_and_not_for_any_value() {
    for (operator, value) in PLAIN.into_iter().chain(NEGATED) {
        if operator == "Null" {
            continue;
        }
        let condition = |operator: String| format!(r#"{{"{operator}":{{"aws:x":{value}}}}}"#);
        for (operator, expected) in [
            (format!("{operator}IfExists"), true),
            (format!("ForAllValues:{operator}"), true),
            (format!("ForAllValues:{operator}IfExists"), true),
            (format!("ForAnyValue:{operator}"), false),
            (format!("ForAnyValue:{operator}IfExists"), true),
        ] {
            assert_eq!(
                holds(&condition(operator.clone()), &[]),
                expected,
                "{operator}"
            );
        }
    }
}

#[test]
fn if_exists_looks_at_a_value_that_does_exist() {
    assert!(!one("StringEqualsIfExists", r#""a""#, "b"));
    assert!(!one("StringNotEqualsIfExists", r#""a""#, "a"));
    assert!(!one("NumericLessThanIfExists", "10", "10"));
    assert!(one("StringEqualsIfExists", r#""a""#, "a"));
}

#[test]
fn strings_are_equal_to_the_letter() {
    for (operator, policy, value) in [
        ("StringEquals", r#""a""#, "A"),
        ("StringEquals", r#""a*""#, "ab"),
        ("StringEquals", r#""""#, " "),
        ("StringNotEquals", r#""a""#, "a"),
        ("StringEqualsIgnoreCase", r#""ab""#, "a"),
        ("StringNotEqualsIgnoreCase", r#""Ä""#, "ä"),
        ("StringLike", r#""A*""#, "ab"),
        ("StringLike", r#""a?""#, "a"),
        ("StringNotLike", r#""a*""#, "ab"),
    ] {
        assert!(!one(operator, policy, value), "{operator} {policy} {value}");
    }
    for (operator, policy, value) in [
        ("StringEquals", r#""a""#, "a"),
        ("StringEquals", r#""a*""#, "a*"),
        ("StringEquals", r#""""#, ""),
        ("StringNotEquals", r#""a""#, "A"),
        ("StringEqualsIgnoreCase", r#""ÄB""#, "äb"),
        ("StringNotEqualsIgnoreCase", r#""a""#, "b"),
        ("StringLike", r#""a*ü""#, "a/b/ü"),
        ("StringNotLike", r#""a?""#, "a"),
    ] {
        assert!(one(operator, policy, value), "{operator} {policy} {value}");
    }
}

#[test]
fn values_of_a_policy_are_alternatives_and_negated_none_may_match() {
    let values = r#"["a","b"]"#;
    assert!(!one("StringEquals", values, "c"));
    assert!(!one("StringNotEquals", values, "a"));
    assert!(!one("StringNotEquals", values, "b"));
    assert!(one("StringEquals", values, "b"));
    assert!(one("StringNotEquals", values, "c"));
}

#[test]
fn operators_and_keys_must_all_hold() {
    let both_keys = r#"{"StringEquals":{"aws:x":"a","aws:y":"b"}}"#;
    let both_operators = r#"{"StringEquals":{"aws:x":"a"},"Bool":{"aws:SecureTransport":true}}"#;
    assert!(!holds(both_keys, &[("aws:x", "a")]));
    assert!(!holds(both_keys, &[("aws:x", "a"), ("aws:y", "c")]));
    assert!(!holds(
        both_operators,
        &[("aws:x", "a"), ("aws:securetransport", "false")]
    ));
    assert!(holds(both_keys, &[("aws:x", "a"), ("AWS:Y", "b")]));
    assert!(holds(
        both_operators,
        &[("aws:x", "a"), ("aws:SECURETRANSPORT", "true")]
    ));
}

#[test]
fn numbers_are_compared_as_numbers() {
    for (operator, value) in [
        ("NumericEquals", "10.5"),
        ("NumericEquals", "ten"),
        ("NumericNotEquals", "10.0"),
        ("NumericLessThan", "10"),
        ("NumericLessThanEquals", "10.01"),
        ("NumericGreaterThan", "9"),
        ("NumericGreaterThanEquals", "9.99"),
        ("NumericGreaterThan", ""),
    ] {
        assert!(!one(operator, "10", value), "{operator} {value}");
    }
    for (operator, value) in [
        ("NumericEquals", "10.0"),
        ("NumericNotEquals", "11"),
        ("NumericNotEquals", "ten"),
        ("NumericLessThan", "9"),
        ("NumericLessThanEquals", "10"),
        ("NumericGreaterThan", "100"),
        ("NumericGreaterThanEquals", "10"),
    ] {
        assert!(one(operator, r#"["10"]"#, value), "{operator} {value}");
    }
}

#[test]
fn dates_are_compared_as_moments() {
    let noon = r#""2026-11-24T12:00:00Z""#;
    for (operator, value) in [
        ("DateEquals", "2026-11-24T12:00:01Z"),
        ("DateEquals", "noon"),
        ("DateNotEquals", "2026-11-24T13:00:00+01:00"),
        ("DateLessThan", "1795521600"),
        ("DateLessThanEquals", "2026-11-25"),
        ("DateGreaterThan", "2026-11-24T11:59:59Z"),
        ("DateGreaterThanEquals", "1795521599"),
    ] {
        assert!(!one(operator, noon, value), "{operator} {value}");
    }
    for (operator, value) in [
        ("DateEquals", "1795521600"),
        ("DateNotEquals", "2026"),
        ("DateLessThan", "2026-11-24"),
        ("DateLessThanEquals", "2026-11-24T12:00Z"),
        ("DateGreaterThan", "2026-11-24T12:00:00.001Z"),
        ("DateGreaterThanEquals", "2026-11-24T12:00:00Z"),
    ] {
        assert!(one(operator, noon, value), "{operator} {value}");
    }
}

#[test]
fn booleans_and_binaries_are_compared_as_such() {
    assert!(!one("Bool", "true", "false"));
    assert!(!one("Bool", "true", "1"));
    assert!(!one("Bool", r#""false""#, ""));
    assert!(one("Bool", r#""True""#, "true"));
    assert!(one("Bool", r#"["true","false"]"#, "false"));
    assert!(!one("BinaryEquals", r#""YWI=""#, "YWM="));
    assert!(!one("BinaryEquals", r#""YWI=""#, "ab"));
    assert!(one("BinaryEquals", r#"["YQ==","YWI="]"#, "YWI="));
}

#[test]
fn addresses_are_of_a_network_or_not() {
    let ours = r#"["203.0.113.0/24","2001:DB8:1234:5678::/64"]"#;
    for value in ["203.0.112.1", "2001:db8:1234:5679::1", "::1", "here", ""] {
        assert!(!one("IpAddress", ours, value), "{value}");
        assert!(one("NotIpAddress", ours, value), "{value}");
    }
    for value in ["203.0.113.1", "::ffff:203.0.113.1", "2001:db8:1234:5678::1"] {
        assert!(one("IpAddress", ours, value), "{value}");
        assert!(!one("NotIpAddress", ours, value), "{value}");
    }
}

#[test]
fn arns_are_compared_part_by_part() {
    for operator in ["ArnEquals", "ArnLike"] {
        let role = r#""arn:aws:iam::*:role/app/*""#;
        assert!(
            !one(operator, role, "arn:aws:iam::1:x:role/app/y"),
            "{operator}"
        );
        assert!(
            !one(operator, role, "arn:aws:iam::1:role/App/y"),
            "{operator}"
        );
        assert!(!one(operator, role, "role/app/y"), "{operator}");
        assert!(
            one(operator, role, "arn:aws:iam::1:role/app/y"),
            "{operator}"
        );
    }
    for operator in ["ArnNotEquals", "ArnNotLike"] {
        let user = r#""arn:aws:iam::111122223333:user/${aws:username}""#;
        let arn = "arn:aws:iam::111122223333:user/alice";
        assert!(!one(operator, user, arn), "{operator}");
        assert!(
            one(operator, user, "arn:aws:iam::111122223333:user/bob"),
            "{operator}"
        );
    }
}

#[test]
fn null_asks_whether_a_key_is_there() {
    let absent = r#"{"Null":{"aws:x":"true"}}"#;
    let present = r#"{"Null":{"aws:x":false}}"#;
    assert!(!holds(absent, &[("aws:x", "a")]));
    assert!(!holds(present, &[]));
    assert!(!holds(present, &[("aws:x", "")]));
    assert!(holds(absent, &[]));
    assert!(holds(absent, &[("aws:x", "")]));
    assert!(holds(present, &[("aws:x", "a")]));
}

/// The tables of "Evaluation logic for multiple values with condition set operators".
#[test]
fn set_operators_ask_for_all_values_or_for_one() {
    let set = |operator: &str, request: &[&str]| {
        let condition = format!(r#"{{"{operator}":{{"kms:EncryptionContextKeys":["a","b*"]}}}}"#);
        let request: Vec<_> = request
            .iter()
            .map(|value| ("kms:EncryptionContextKeys", *value))
            .collect();
        holds(&condition, &request)
    };
    for (operator, request) in [
        ("ForAllValues:StringLike", &["a", "c"][..]),
        ("ForAllValues:StringNotLike", &["c", "bb"]),
        ("ForAnyValue:StringLike", &["c", "d"]),
        ("ForAnyValue:StringLike", &[]),
        ("ForAnyValue:StringLike", &[""]),
        ("ForAnyValue:StringNotLike", &["a", "bb"]),
        ("ForAnyValue:StringNotLike", &[]),
    ] {
        assert!(!set(operator, request), "{operator} {request:?}");
    }
    for (operator, request) in [
        ("ForAllValues:StringLike", &["a", "bb"][..]),
        ("ForAllValues:StringLike", &["a"]),
        ("ForAllValues:StringLike", &[]),
        ("ForAllValues:StringLike", &[""]),
        ("ForAllValues:StringNotLike", &["c", "d"]),
        ("ForAnyValue:StringLike", &["c", "bb"]),
        ("ForAnyValue:StringNotLike", &["a", "c"]),
    ] {
        assert!(set(operator, request), "{operator} {request:?}");
    }
}

#[test]
fn a_variable_without_a_value_matches_nothing_and_negated_everything() {
    assert!(!one("StringEquals", r#""${aws:PrincipalTag/Team}""#, ""));
    assert!(!one("StringLike", r#""${aws:PrincipalTag/Team}*""#, "red"));
    assert!(one(
        "StringNotEquals",
        r#""${aws:PrincipalTag/Team}""#,
        "red"
    ));
    assert!(one("StringEquals", r#""${aws:username}""#, "alice"));
    assert!(one(
        "StringEqualsIgnoreCase",
        r#""${aws:username}""#,
        "ALICE"
    ));
    assert!(one(
        "StringEquals",
        r#""${aws:PrincipalTag/Team, 'red'}""#,
        "red"
    ));
}
