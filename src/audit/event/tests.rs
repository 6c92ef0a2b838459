//! How long a record is at most, and what a claimed access key id may be.

use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::{Event, HIDDEN, IAM_SOURCE, RECORD_BYTES_MAX, ROLE_TYPE, Who};
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

    let omitted = of(&(fits + "x"));
    assert!(omitted.len() < 2000, "{}", omitted.len());
    let omitted = read(&omitted);
    for name in ["requestParameters", "responseElements"] {
        assert_eq!(omitted[name]["omitted"], true);
        assert_eq!(omitted[name]["originalSize"], RECORD_BYTES_MAX + 1);
    }
    assert_eq!(omitted["eventName"], "GetUser");
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
    assert_eq!(read(&record)["requestParameters"]["omitted"], true);
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
