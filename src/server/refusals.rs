//! Requests that nobody could be found for: counted each, and recorded so far that no stranger can fill the disk.
//!
//! Whoever reaches the port can have a request refused as often as the network lets it, with any access key and any agent.
//! In each window of [`WINDOW`] the first [`RECORDS_PER_CODE`] refusals with one error code are records of the audit of
//! their own, which show a mistyped secret or somebody who is trying; when the window is over, one record more says how many
//! there were beyond them, and of [`ACCESS_KEYS_PER_WINDOW`] access keys that there are here how many of these claimed
//! them, and from where: a flood by strangers does not hide who tries the secret of somebody. So it is at most
//! [`RECORDS_PER_WINDOW`] records of bounded length, whatever comes. All are counted in `strongroom_auth_refused_total`.
//! A refusal that cannot be recorded is a refusal all the same.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use crate::audit::{Event, OWN_SOURCE, Who, cut, timestamp};
use crate::auth::Origin;
use crate::auth::sigv4::{AuthError, Service};
use crate::kms::Kms;

/// The time that records are bounded in.
const WINDOW: Duration = Duration::from_mins(10);
/// Records of their own of refusals with one code.
const RECORDS_PER_CODE: u64 = 3;
/// Records of their own of refusals at all.
const RECORDS_PER_WINDOW: u64 = 20;
/// Access keys that those without a record of their own are counted by.
const ACCESS_KEYS_PER_WINDOW: usize = 64;
/// The longest reason, some of which is in the words of the stranger.
const WHY_CHARS_MAX: usize = 256;
const ONE: &str = "AuthenticationRefused";
const MANY: &str = "AuthenticationsRefused";

/// A refusal.
pub(super) struct Refused<'a> {
    pub(super) service: Service,
    pub(super) access_key_id: Option<&'a str>,
    /// Whether there is such an access key here.
    pub(super) is_known: bool,
    pub(super) error: &'a AuthError,
    pub(super) origin: &'a Origin,
}

/// What is to be recorded.
pub(super) struct Told {
    /// This refusal.
    is_recorded: bool,
    /// Those of a window that is over.
    over: Option<Unrecorded>,
}

/// Counts and records.
#[derive(Debug)]
pub(super) struct Refusals {
    kms: Arc<Kms>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By code, since the start of the process.
    totals: BTreeMap<&'static str, u64>,
    window: Option<Window>,
}

#[derive(Debug)]
struct Window {
    began: OffsetDateTime,
    /// Refusals, and the records of them.
    codes: BTreeMap<&'static str, u64>,
    recorded: u64,
    unrecorded: Option<Unrecorded>,
}

/// What has no record of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Unrecorded {
    codes: BTreeMap<&'static str, u64>,
    /// By access keys that there are here.
    access_keys: BTreeMap<String, Claims>,
    /// With such a one beyond [`ACCESS_KEYS_PER_WINDOW`].
    other_access_keys: u64,
    first: OffsetDateTime,
    last: OffsetDateTime,
}

/// Refusals that claim one access key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Claims {
    count: u64,
    /// From where the first came,
    first: Option<IpAddr>,
    /// and the last.
    last: Option<IpAddr>,
}

impl Unrecorded {
    fn count(&mut self, code: &'static str, known: Option<Known<'_>>, now: OffsetDateTime) {
        *self.codes.entry(code).or_default() += 1;
        self.last = now;
        let Some(known) = known else {
            return;
        };
        if let Some(claims) = self.access_keys.get_mut(known.access_key_id) {
            claims.count += 1;
            claims.last = known.source_ip;
        } else if self.access_keys.len() < ACCESS_KEYS_PER_WINDOW {
            let claims = Claims {
                count: 1,
                first: known.source_ip,
                last: known.source_ip,
            };
            self.access_keys
                .insert(known.access_key_id.to_owned(), claims);
        } else {
            self.other_access_keys += 1;
        }
    }
}

/// An access key that there is here, which a refused request claims.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) access_key_id: &'a str,
    pub(super) source_ip: Option<IpAddr>,
}

impl State {
    /// Counts one. Whether it gets a record of its own, and what is to be said of a window that is over.
    fn count(
        &mut self,
        code: &'static str,
        known: Option<Known<'_>>,
        now: OffsetDateTime,
    ) -> (bool, Option<Unrecorded>) {
        *self.totals.entry(code).or_default() += 1;
        let over = self.end_window(now);
        let window = self.window.get_or_insert_with(|| Window {
            began: now,
            codes: BTreeMap::new(),
            recorded: 0,
            unrecorded: None,
        });
        let same = window.codes.entry(code).or_default();
        *same += 1;
        let is_recorded = *same <= RECORDS_PER_CODE && window.recorded < RECORDS_PER_WINDOW;
        if is_recorded {
            window.recorded += 1;
        } else {
            let unrecorded = window.unrecorded.get_or_insert_with(|| Unrecorded {
                codes: BTreeMap::new(),
                access_keys: BTreeMap::new(),
                other_access_keys: 0,
                first: now,
                last: now,
            });
            unrecorded.count(code, known, now);
        }
        (is_recorded, over)
    }

    /// Ends the window if it is over. A clock that was set back ends it, too.
    fn end_window(&mut self, now: OffsetDateTime) -> Option<Unrecorded> {
        let is_over = |window: &Window| !(window.began..window.began + WINDOW).contains(&now);
        if self.window.as_ref().is_some_and(is_over) {
            return self.window.take()?.unrecorded;
        }
        None
    }
}

impl Refusals {
    pub(super) fn new(kms: Arc<Kms>) -> Self {
        Self {
            kms,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more. Something: what has to be told of it.
    pub(super) fn count(
        &self,
        error: &AuthError,
        known: Option<Known<'_>>,
        now: OffsetDateTime,
    ) -> Option<Told> {
        let (is_recorded, over) = self.state().count(error.code(), known, now);
        (is_recorded || over.is_some()).then_some(Told { is_recorded, over })
    }

    /// Records what [`Refusals::count`] has said.
    pub(super) async fn tell(&self, told: Told, refused: &Refused<'_>, now: OffsetDateTime) {
        if let Some(over) = told.over {
            self.summarise(over, now).await;
        }
        if !told.is_recorded {
            return;
        }
        let code = refused.error.code();
        let who = Who::Stranger {
            access_key_id: refused.access_key_id,
            is_known: refused.is_known,
            origin: refused.origin,
        };
        let service = json!(format!("{}.amazonaws.com", refused.service.as_str()));
        let mut event = self.event(ONE, who, now);
        event.additional.insert("service".to_owned(), service);
        let why = cut(&refused.error.to_string(), WHY_CHARS_MAX);
        event.outcome = Some((code.to_owned(), why));
        self.record(event).await;
    }

    /// Says what is to be said of a window that is over; called on a timer.
    pub(super) async fn tick(&self, now: OffsetDateTime) {
        let over = self.state().end_window(now);
        if let Some(over) = over {
            self.summarise(over, now).await;
        }
    }

    /// The same, at the end of the process: the window is over.
    pub(super) async fn end(&self, now: OffsetDateTime) {
        let over = self.state().window.take();
        if let Some(over) = over.and_then(|window| window.unrecorded) {
            self.summarise(over, now).await;
        }
    }

    async fn summarise(&self, unrecorded: Unrecorded, now: OffsetDateTime) {
        let mut event = self.event(MANY, Who::Service, now);
        let all: u64 = unrecorded.codes.values().sum();
        event.response = Map::from_iter([
            ("count".to_owned(), json!(all)),
            ("errorCodes".to_owned(), json!(unrecorded.codes)),
            ("first".to_owned(), json!(timestamp(unrecorded.first))),
            ("last".to_owned(), json!(timestamp(unrecorded.last))),
        ]);
        if !unrecorded.access_keys.is_empty() {
            let address = |address: Option<IpAddr>| address.map(|address| address.to_string());
            let access_keys = unrecorded.access_keys.iter();
            let access_keys: Vec<_> = access_keys
                .map(|(id, claims)| {
                    json!({
                        "accessKeyId": id,
                        "count": claims.count,
                        "firstSourceIPAddress": address(claims.first),
                        "lastSourceIPAddress": address(claims.last),
                    })
                })
                .collect();
            event
                .response
                .insert("accessKeys".to_owned(), json!(access_keys));
        }
        if unrecorded.other_access_keys > 0 {
            let others = json!(unrecorded.other_access_keys);
            event
                .response
                .insert("otherAccessKeysCount".to_owned(), others);
        }
        self.record(event).await;
    }

    fn event<'a>(&'a self, name: &'a str, who: Who<'a>, time: OffsetDateTime) -> Event<'a> {
        Event {
            source: OWN_SOURCE,
            name,
            time,
            who,
            account: self.kms.account().as_str(),
            region: self.kms.region(),
            read_only: true,
            request: Map::<String, Value>::new(),
            response: Map::new(),
            additional: Map::new(),
            resource_type: "",
            resources: Vec::new(),
            outcome: None,
        }
    }

    async fn record(&self, event: Event<'_>) {
        if let Err(error) = self.kms.record(event).await {
            tracing::debug!(event = "audit.refusal_lost", %error);
        }
    }

    /// The counter, for `/metrics`.
    pub(super) fn metrics(&self) -> String {
        const FAMILY: &str = "strongroom_auth_refused_total";
        let mut text = format!(
            "# HELP {FAMILY} Requests whose signature was not believed.\n# TYPE {FAMILY} counter\n"
        );
        for (code, count) in &self.state().totals {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{FAMILY}{{code=\"{code}\"}} {count}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::{
        ACCESS_KEYS_PER_WINDOW, Known, RECORDS_PER_CODE, RECORDS_PER_WINDOW, State, WINDOW,
    };

    #[test]
    fn records_are_bounded_in_each_window_and_the_rest_is_counted() {
        let mut state = State::default();
        let began = OffsetDateTime::UNIX_EPOCH;
        for number in 1..=1000 {
            let (recorded, over) = state.count("AccessDenied", None, began);
            assert_eq!(
                (recorded, over),
                (number <= RECORDS_PER_CODE, None),
                "{number}"
            );
        }
        let last = began + WINDOW - time::Duration::SECOND;
        let (recorded, _) = state.count("InvalidToken", None, last);
        assert!(recorded, "another code");
        assert_eq!(state.end_window(last), None);
        let (recorded, over) = state.count("AccessDenied", None, began + WINDOW);
        let over = over.expect("what was not recorded");
        assert!(recorded, "a new window");
        assert_eq!(over.codes["AccessDenied"], 1000 - RECORDS_PER_CODE);
        assert_eq!((over.first, over.last), (began, began));
        assert_eq!(state.totals["AccessDenied"], 1001);
    }

    #[test]
    fn all_codes_together_are_bounded() {
        let mut state = State::default();
        let codes: Vec<&'static str> = (0..50).map(|n| &*format!("Code{n}").leak()).collect();
        let recorded = codes
            .iter()
            .filter(|code| state.count(code, None, OffsetDateTime::UNIX_EPOCH).0);
        assert_eq!(recorded.count() as u64, RECORDS_PER_WINDOW);
    }
    #[test]
    fn a_flood_does_not_hide_who_tries_an_access_key_of_ours() {
        let mut state = State::default();
        let now = OffsetDateTime::UNIX_EPOCH;
        for _ in 0..1000 {
            state.count("SignatureDoesNotMatch", None, now);
        }
        for last in 1..=3 {
            let known = Known {
                access_key_id: "AKIA1",
                source_ip: Some([192, 0, 2, last].into()),
            };
            state.count("SignatureDoesNotMatch", Some(known), now);
        }
        for number in 0..1000 {
            let known = Known {
                access_key_id: &format!("AKIB{number:04}"),
                source_ip: None,
            };
            state.count("SignatureDoesNotMatch", Some(known), now);
        }
        let over = state
            .end_window(now + WINDOW)
            .expect("what was not recorded");
        let claims = &over.access_keys["AKIA1"];
        assert_eq!(claims.count, 3);
        assert_eq!(claims.first, Some([192, 0, 2, 1].into()));
        assert_eq!(claims.last, Some([192, 0, 2, 3].into()));
        assert_eq!(over.access_keys.len(), ACCESS_KEYS_PER_WINDOW);
        let others = 1001 - ACCESS_KEYS_PER_WINDOW as u64;
        assert_eq!(over.other_access_keys, others);
    }
}
