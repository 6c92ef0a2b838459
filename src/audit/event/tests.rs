//! How long a record is at most, and what a claimed access key id may be.

use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::{Event, HIDDEN, IAM_SOURCE, POLICY_CHARS_MAX, RECORD_BYTES_MAX, ROLE_TYPE, Who};
use crate::auth::{Origin, Principal, RequestContext};

fn context() -> RequestContext {
    let account = crate::auth::AccountId::parse("123456789012").expect("an account");
    RequestContext::new(Principal::root(account, "AKIATEST"), "request-1")
}

fn event<'a>(who: Who<'a>, name: &'a str) -> Event<'a> {
    Event {
        source: IAM_SOURCE,
        name,
        time: OffsetDateTime::UNIX_EPOCH,
        who,
        account: "123456789012",
        region: "us-west-2",
        read_only: true,
        request: Map::new(),
        response: Map::new(),
        additional: Map::new(),
        resource_type: ROLE_TYPE,
        resources: Vec::new(),
        outcome: None,
    }
}

fn read(record: &[u8]) -> Value {
    serde_json::from_slice(record).expect("JSON")
}

#[test]
fn a_record_is_whole_up_to_its_limit_and_says_beyond_it_that_it_is_not() {
    let context = context();
    let origin = Origin::of(&context);
    let of = |text: &str| {
        let mut event = event(Who::Caller(&context.principal, &origin), "GetUser");
        event.request = Map::from_iter([("text".to_owned(), json!(text))]);
        event.response = Map::from_iter([("made".to_owned(), json!(true))]);
        event.record().1
    };
    let left = RECORD_BYTES_MAX - of("").len();
    // Each of them is six bytes of a record.
    let fits = "\u{1}".repeat(left / 6) + &"x".repeat(left % 6);
    let whole = of(&fits);
    assert_eq!(whole.len(), RECORD_BYTES_MAX);
    assert_eq!(read(&whole)["requestParameters"]["text"], fits.as_str());

    let shortened = of(&(fits + "x"));
    assert!(shortened.len() < RECORD_BYTES_MAX, "{}", shortened.len());
    let shortened = read(&shortened);
    let request = &shortened["requestParameters"];
    assert_eq!(request["shortened"], true);
    assert_eq!(request["originalSize"], RECORD_BYTES_MAX + 1);
    let text = request["text"].as_str().expect("a text");
    assert_eq!(text, "\u{1}".repeat(POLICY_CHARS_MAX / 2) + "…");
    assert_eq!(shortened["responseElements"]["made"], true);
    assert_eq!(shortened["eventName"], "GetUser");
}

#[test]
fn what_is_short_stays_however_long_the_rest_is() {
    let context = context();
    let origin = Origin::of(&context);
    let numbers = vec![vec![1e15; 1024]; 1024];
    for long in [json!("\u{1}".repeat(1 << 20)), json!(numbers)] {
        let mut event = event(Who::Caller(&context.principal, &origin), "AttachUserPolicy");
        event.request = Map::from_iter([
            ("userName".to_owned(), json!("ann")),
            ("policyDocument".to_owned(), long),
        ]);
        event.response = Map::from_iter([("made".to_owned(), json!("x".repeat(1 << 20)))]);
        let (_, record) = event.record();
        assert!(record.len() <= RECORD_BYTES_MAX, "{}", record.len());
        let record = read(&record);
        assert_eq!(record["requestParameters"]["userName"], "ann");
        assert_eq!(record["requestParameters"]["shortened"], true);
        assert_eq!(record["responseElements"]["made"], "x".repeat(1 << 20));
    }
}

#[test]
fn nothing_else_makes_a_record_long() {
    let mut context = context();
    let long = "\u{1}".repeat(1 << 20);
    context.user_agent = Some(long.clone());
    let origin = Origin::of(&context);
    let mut event = event(Who::Caller(&context.principal, &origin), &long);
    event.resources = vec![long.clone(); 100];
    event.outcome = Some(("AccessDenied".to_owned(), long.clone()));
    event.request = Map::from_iter([(long.clone(), json!(long))]);
    let (_, record) = event.record();
    assert!(record.len() <= RECORD_BYTES_MAX, "{}", record.len());
    assert_eq!(read(&record)["requestParameters"]["shortened"], true);
}

#[test]
fn a_secret_in_the_place_of_an_access_key_id_is_not_recorded() {
    let context = context();
    let origin = Origin::of(&context);
    let told = |id: &str, is_known| {
        let who = Who::Stranger {
            access_key_id: Some(id),
            is_known,
            origin: &origin,
        };
        let record = read(&event(who, "AuthenticationRefused").record().1);
        record["userIdentity"]["accessKeyId"].clone()
    };
    let made =
        ["AKIA", "ASIA"].map(|prefix| crate::iam::new_access_key_id(prefix).expect("randomness"));
    let [root, session] = made.each_ref().map(String::as_str);
    for id in [
        "AKIAIOSFODNN7EXAMPLE",
        "ASIA234567ABCDEFGHIJ",
        root,
        session,
    ] {
        assert_eq!(told(id, false), id);
    }
    for other in [
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "AKIAIOSFODNN7EXAMPL",
        "AKIAIOSFODNN7EXAMPLEE",
        "AKIAIOSFODNN1EXAMPLE",
        "AKIAIOSFODNN7EXAMPLe",
        "AROAIOSFODNN7EXAMPLE",
        "",
    ] {
        assert_eq!(told(other, false), HIDDEN, "{other}");
        assert_eq!(told(other, true), other, "it is one of ours");
    }
}
