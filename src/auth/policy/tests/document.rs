//! What is no policy, and says why.

use crate::auth::policy::{
    Document, Kind, Malformed, PATTERN_CHARS_MAX, STATEMENTS_MAX, VALUES_MAX,
};

fn refused(text: &str, kind: Kind) -> Malformed {
    match Document::parse(text, kind) {
        Ok(_) => panic!("{text} is taken as {kind:?}"),
        Err(malformed) => malformed,
    }
}

/// A policy of one statement, with these members besides `Effect`.
fn statement(members: &str) -> String {
    format!(r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow",{members}}}]}}"#)
}

fn with_condition(condition: &str) -> String {
    statement(&format!(
        r#""Action":"s3:*","Resource":"*","Condition":{condition}"#
    ))
}

#[test]
fn what_is_no_json_object_is_malformed() {
    for text in ["", "{", "null", "[]", "\"x\"", "{}x", "{'Statement':[]}"] {
        let malformed = refused(text, Kind::Identity);
        assert!(
            matches!(malformed, Malformed::Json(_) | Malformed::Type { .. }),
            "{text} {malformed:?}"
        );
    }
}

#[test]
fn an_effect_that_stands_twice_is_malformed() {
    let twice = statement(r#""Action":"s3:*","Resource":"*","Effect":"Deny""#);
    let malformed = refused(&twice, Kind::Identity).to_string();
    assert!(malformed.contains("\"Effect\" stands twice"), "{malformed}");
}

#[test]
fn elements_that_the_language_does_not_have_are_malformed() {
    for (text, name) in [
        (r#"{"Statements":[]}"#.to_owned(), "Statements"),
        (statement(r#""action":"s3:*","Resource":"*""#), "action"),
        (
            statement(r#""Action":"s3:*","Resource":"*","Conditions":{}"#),
            "Conditions",
        ),
    ] {
        assert_eq!(
            refused(&text, Kind::Identity),
            Malformed::Unknown(name.into())
        );
    }
}

#[test]
fn elements_that_must_be_there_are_missed() {
    for (text, kind, name) in [
        ("{}".to_owned(), Kind::Identity, "Statement"),
        (
            r#"{"Statement":[]}"#.to_owned(),
            Kind::Identity,
            "Statement",
        ),
        (
            r#"{"Statement":{"Action":"*","Resource":"*"}}"#.to_owned(),
            Kind::Identity,
            "Effect",
        ),
        (statement(r#""Resource":"*""#), Kind::Identity, "Action"),
        (statement(r#""Action":"*""#), Kind::Identity, "Resource"),
        (
            statement(r#""Action":"*","Resource":"*""#),
            Kind::Resource,
            "Principal",
        ),
        (
            statement(r#""Action":"*","Principal":"*""#),
            Kind::Resource,
            "Resource",
        ),
        (
            statement(r#""Action":"sts:AssumeRole""#),
            Kind::Trust,
            "Principal",
        ),
    ] {
        assert_eq!(refused(&text, kind), Malformed::Missing(name), "{text}");
    }
}

#[test]
fn elements_that_a_kind_must_not_have_are_prohibited() {
    let everything = r#""Action":"*","Resource":"*","#;
    for (text, kind, name) in [
        (
            statement(&format!(r#"{everything}"Principal":"*""#)),
            Kind::Identity,
            "Principal",
        ),
        (
            statement(&format!(r#"{everything}"NotPrincipal":"*""#)),
            Kind::Identity,
            "NotPrincipal",
        ),
        (
            statement(&format!(r#"{everything}"Principal":"*""#)),
            Kind::Trust,
            "Resource",
        ),
        (
            statement(r#""Action":"sts:AssumeRole","NotPrincipal":"*""#),
            Kind::Trust,
            "NotPrincipal",
        ),
    ] {
        assert_eq!(refused(&text, kind), Malformed::Prohibited(name), "{text}");
    }
}

#[test]
fn of_two_elements_that_exclude_each_other_there_is_one() {
    for (text, kind, one, other) in [
        (
            statement(r#""Action":"*","NotAction":"s3:*","Resource":"*""#),
            Kind::Identity,
            "Action",
            "NotAction",
        ),
        (
            statement(r#""Action":"*","Resource":"*","NotResource":"*""#),
            Kind::Identity,
            "Resource",
            "NotResource",
        ),
        (
            statement(r#""Action":"*","Resource":"*","Principal":"*","NotPrincipal":"*""#),
            Kind::Resource,
            "Principal",
            "NotPrincipal",
        ),
    ] {
        assert_eq!(refused(&text, kind), Malformed::Both(one, other));
    }
}

#[test]
fn allow_with_not_principal_is_refused_and_deny_is_not() {
    let text = statement(r#""Action":"*","Resource":"*","NotPrincipal":{"AWS":"111122223333"}"#);
    assert_eq!(refused(&text, Kind::Resource), Malformed::AllowNotPrincipal);
    let deny = text.replace("Allow", "Deny");
    Document::parse(&deny, Kind::Resource).expect("what NotPrincipal is for");
}

#[test]
fn elements_of_another_type_are_malformed() {
    for text in [
        r#"{"Version":2012,"Statement":[]}"#.to_owned(),
        r#"{"Id":7,"Statement":[]}"#.to_owned(),
        r#"{"Statement":"x"}"#.to_owned(),
        r#"{"Statement":["x"]}"#.to_owned(),
        r#"{"Statement":[{"Effect":true,"Action":"*","Resource":"*"}]}"#.to_owned(),
        statement(r#""Sid":7,"Action":"*","Resource":"*""#),
        statement(r#""Action":{},"Resource":"*""#),
        statement(r#""Action":[],"Resource":"*""#),
        statement(r#""Action":[["s3:*"]],"Resource":"*""#),
        statement(r#""Action":"*","Resource":7"#),
        statement(r#""Action":"*","Resource":[]"#),
        with_condition("[]"),
        with_condition(r#"{"Bool":"x"}"#),
        with_condition(r#"{"Bool":{}}"#),
        with_condition(r#"{"StringEquals":{"aws:x":[]}}"#),
        with_condition(r#"{"StringEquals":{"aws:x":null}}"#),
        with_condition(r#"{"StringEquals":{"aws:x":[["a"]]}}"#),
        with_condition(r#"{"StringEquals":{"aws:x":{"a":"b"}}}"#),
    ] {
        let malformed = refused(&text, Kind::Identity);
        assert!(
            matches!(malformed, Malformed::Type { .. }),
            "{text} {malformed:?}"
        );
    }
}

#[test]
fn versions_effects_and_ids_are_those_of_the_language() {
    let version = r#"{"Version":"2012-10-18","Statement":[]}"#;
    assert_eq!(
        refused(version, Kind::Identity),
        Malformed::Version("2012-10-18".into())
    );
    let effect = statement(r#""Action":"*","Resource":"*""#).replace("Allow", "allow");
    assert_eq!(
        refused(&effect, Kind::Identity),
        Malformed::Effect("allow".into())
    );
    let sid = statement(r#""Sid":"a b","Action":"*","Resource":"*""#);
    assert_eq!(refused(&sid, Kind::Identity), Malformed::Sid("a b".into()));
    let one = r#"{"Sid":"a","Effect":"Allow","Action":"*","Resource":"*"}"#;
    let two = format!(r#"{{"Statement":[{one},{one}]}}"#);
    assert_eq!(
        refused(&two, Kind::Identity),
        Malformed::SidRepeated("a".into())
    );
}

#[test]
fn an_action_has_a_service_and_a_name() {
    for action in [
        "",
        "GetObject",
        "s3",
        "s3:",
        ":GetObject",
        "*:GetObject",
        "s3*:GetObject",
        "**",
    ] {
        let text = statement(&format!(r#""Action":["s3:*","{action}"],"Resource":"*""#));
        assert_eq!(
            refused(&text, Kind::Identity),
            Malformed::Action(action.into()),
            "{action}"
        );
    }
}

#[test]
fn a_resource_is_an_arn() {
    let text = statement(r#""Action":"*","Resource":["*","bucket/*"]"#);
    assert_eq!(
        refused(&text, Kind::Identity),
        Malformed::Resource("bucket/*".into())
    );
}

#[test]
fn operators_and_keys_that_do_not_exist_are_malformed() {
    for operator in [
        "",
        "Equals",
        "stringequals",
        "StringEqual",
        "StringNotBool",
        "StringEqualsIfExistsIfExists",
        "IfExistsStringEquals",
        "ForAny:StringEquals",
        "ForAnyValue:",
        "ForAnyValue:ForAllValues:StringEquals",
        "NumericLike",
        "DateLessThanEqual",
        "NullIfExists",
        "ForAnyValue:Null",
        "NotBool",
        "NotArnLike",
    ] {
        let text = with_condition(&format!(r#"{{"{operator}":{{"aws:x":"true"}}}}"#));
        assert_eq!(
            refused(&text, Kind::Identity),
            Malformed::Operator(operator.into()),
            "{operator}"
        );
    }
    for key in ["", "SourceIp", ":SourceIp", "aws:"] {
        let text = with_condition(&format!(r#"{{"StringEquals":{{"{key}":"x"}}}}"#));
        assert_eq!(
            refused(&text, Kind::Identity),
            Malformed::Key(key.into()),
            "{key}"
        );
    }
}

#[test]
fn values_that_an_operator_cannot_compare_are_malformed() {
    for (operator, value) in [
        ("NumericEquals", "ten"),
        ("NumericLessThanIfExists", "${aws:username}"),
        ("DateLessThan", "tomorrow"),
        ("Bool", "yes"),
        ("Null", "null"),
        ("BinaryEquals", "?"),
        ("IpAddress", "10.0.0.0/33"),
        ("ForAllValues:NotIpAddress", "*"),
    ] {
        let text = with_condition(&format!(r#"{{"{operator}":{{"aws:x":"{value}"}}}}"#));
        let expected = Malformed::Value {
            operator: operator.into(),
            value: value.into(),
        };
        assert_eq!(refused(&text, Kind::Identity), expected);
    }
    let open = with_condition(r#"{"StringLike":{"aws:x":"${aws:username"}}"#);
    assert_eq!(
        refused(&open, Kind::Identity),
        Malformed::Variable("${aws:username".into())
    );
}

#[test]
fn statements_and_values_have_limits_at_n_and_not_at_n_plus_one() {
    let statements = |count: usize| {
        let one = r#"{"Effect":"Deny","Action":"*","Resource":"*"}"#;
        format!(r#"{{"Statement":[{}]}}"#, vec![one; count].join(","))
    };
    Document::parse(&statements(STATEMENTS_MAX), Kind::Identity).expect("at the limit");
    assert!(matches!(
        refused(&statements(STATEMENTS_MAX + 1), Kind::Identity),
        Malformed::TooMany {
            max: STATEMENTS_MAX,
            ..
        }
    ));
    // One action and one resource besides.
    let values = |count: usize| {
        let values = vec!["\"a\""; count].join(",");
        with_condition(&format!(r#"{{"StringEquals":{{"aws:x":[{values}]}}}}"#))
    };
    Document::parse(&values(VALUES_MAX - 2), Kind::Identity).expect("at the limit");
    assert!(matches!(
        refused(&values(VALUES_MAX - 1), Kind::Identity),
        Malformed::TooMany {
            max: VALUES_MAX,
            ..
        }
    ));
    let value = |chars: usize| {
        let value = "a".repeat(chars);
        with_condition(&format!(r#"{{"StringEquals":{{"aws:x":"{value}"}}}}"#))
    };
    Document::parse(&value(PATTERN_CHARS_MAX), Kind::Identity).expect("at the limit");
    assert!(matches!(
        refused(&value(PATTERN_CHARS_MAX + 1), Kind::Identity),
        Malformed::TooMany {
            max: PATTERN_CHARS_MAX,
            ..
        }
    ));
}

#[test]
fn a_policy_is_given_back_as_it_was_written() {
    let text = "{ \"Id\" : \"é\",\n \"Statement\":{\"Sid\":\"Enable IAM User Permissions\",\"Effect\":\"Allow\",\
        \"Principal\":{\"AWS\":[\"111122223333\",\"arn:aws:iam::111122223333:user/alice\"]},\"Action\":\"kms:*\",\
        \"Resource\":\"*\",\"Condition\":{}}}";
    let document = Document::parse(text, Kind::Resource).expect("a key policy");
    assert_eq!(document.text(), text);
    assert_eq!(
        document.principals().collect::<Vec<_>>(),
        ["111122223333", "arn:aws:iam::111122223333:user/alice"]
    );
}
