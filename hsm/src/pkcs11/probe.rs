//! What a token can do and what it lets others do, found out by trying.
//!
//! Lists of mechanisms promise too much and too little. So every scheme is tried with keys of one session, made like
//! those of the token but for that, which are gone when their session is closed. A scheme works when what it sealed
//! opens to the same, for the shortest and the longest plaintext and for one of an odd length, when it seals the same thing differently each time,
//! and when it refuses another AAD and changed bytes for a reason that says so.

use cryptoki::context::Pkcs11;
use cryptoki::object::{Attribute, AttributeType, ObjectHandle};
use cryptoki::session::Session;
use cryptoki::slot::Slot;

use super::error::{device, may_blame_ciphertext};
use super::key::{Past, Role, passing_template};
use super::raw::{
    CK_MECHANISM_TYPE, CKM_AES_CBC, CKM_AES_CBC_PAD, CKM_AES_ECB, CKM_AES_KEY_WRAP,
    CKM_AES_KEY_WRAP_KWP, CKM_AES_KEY_WRAP_PAD, CKM_SHA256_HMAC, Generator, Mechanism, Raw, Target,
};
use super::scheme::{self, BY_PREFERENCE, Bench, Dialect, Keys, NotOpened, TokenIv};
use crate::{HsmError, HsmResult, WRAP_PLAINTEXT_BYTES_MAX, WrapScheme};

/// A length that needs padding, wherever there is some.
const ODD_BYTES: usize = 13;

/// A token, and the means to try things with it.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) raw: &'a Raw,
    pub(super) context: &'a Pkcs11,
    pub(super) slot: Slot,
}

/// What was found out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Abilities {
    /// How the token does what works.
    pub(crate) dialect: Dialect,
    /// By scheme, the preferred one first: that it works, or why not.
    pub(crate) schemes: Vec<(WrapScheme, Result<(), String>)>,
    /// What the token lets others do with keys that must not leave it, a sentence each.
    pub(crate) dangers: Vec<String>,
    /// Why it could not be tried what the token lets others do.
    pub(crate) untried: Option<String>,
}

impl Abilities {
    /// The scheme for new keys.
    ///
    /// # Errors
    ///
    /// [`HsmError::Config`] when none works, with what stood against each.
    pub(crate) fn scheme(&self) -> HsmResult<WrapScheme> {
        self.first(&BY_PREFERENCE)
    }

    /// Whether the preferred scheme works, and the token was tried and gives nothing away.
    pub(crate) fn all_is_well(&self) -> bool {
        let [preferred, ..] = BY_PREFERENCE;
        let works = self.scheme().is_ok_and(|scheme| scheme == preferred);
        works && self.dangers.is_empty() && self.untried.is_none()
    }

    /// The scheme for a key that encrypts and decrypts and has no second key.
    pub(super) fn gcm_scheme(&self) -> HsmResult<WrapScheme> {
        self.first(&[
            WrapScheme::AesGcm,
            WrapScheme::AesGcmTokenIv,
            WrapScheme::AesGcmMessage,
        ])
    }

    fn first(&self, among: &[WrapScheme]) -> HsmResult<WrapScheme> {
        let works = |(scheme, result): &&(WrapScheme, Result<(), String>)| {
            result.is_ok() && among.contains(scheme)
        };
        if let Some((scheme, _)) = self.schemes.iter().find(works) {
            return Ok(*scheme);
        }
        let reasons = self.schemes.iter().filter_map(|(scheme, result)| {
            let reason = result.as_ref().err()?;
            Some(format!("{}: {reason}", scheme.name()))
        });
        let reasons = reasons.collect::<Vec<_>>().join("; ");
        Err(HsmError::Config(format!(
            "no scheme of wrapping works with this token ({reasons})"
        )))
    }

    /// What its operator is to know: the dangers, and that there may be some. Only a danger that was seen has the token
    /// refused.
    pub(super) fn warnings(&self) -> Vec<String> {
        let untried = self.untried.iter().map(|reason| {
            format!("it could not be tried whether keys can be taken out of the token: {reason}")
        });
        self.dangers.iter().cloned().chain(untried).collect()
    }

    /// What is asked of keys: less of a token with dangers, which has sessions only where its operator insists.
    pub(super) fn past(&self) -> Past {
        if self.dangers.is_empty() {
            Past::Required
        } else {
            Past::Ignored
        }
    }

    /// Whether this is worth remembering: a token that could do nothing may have been ill.
    pub(super) fn conclusive(&self) -> bool {
        self.untried.is_none() && self.schemes.iter().any(|(_, result)| result.is_ok())
    }
}

impl Subject<'_> {
    /// Tries every scheme, and what the token lets others do. Blocks for some hundred calls.
    ///
    /// # Errors
    ///
    /// What the device says to opening a session. That a trial fails is a finding.
    pub(super) fn abilities(self) -> HsmResult<Abilities> {
        let mut abilities = Abilities::default();
        self.session().map_err(device("C_OpenSession"))?;
        for scheme in BY_PREFERENCE {
            let mut result = Err(String::new());
            for dialect in variants(scheme, abilities.dialect) {
                let tried = self.try_scheme(scheme, dialect);
                if tried.is_ok() {
                    abilities.dialect = dialect;
                    result = tried;
                    break;
                }
                // The first variant is the one of the standard: its failure says most.
                if result == Err(String::new()) {
                    result = tried;
                }
            }
            abilities.schemes.push((scheme, result));
        }
        match self.dangers() {
            Ok(dangers) => abilities.dangers = dangers,
            Err(reason) => abilities.untried = Some(reason),
        }
        Ok(abilities)
    }

    pub(super) fn session(self) -> cryptoki::error::Result<Session> {
        self.context.open_rw_session(self.slot)
    }

    /// Tries one scheme in one dialect.
    pub(super) fn try_scheme(self, scheme: WrapScheme, dialect: Dialect) -> Result<(), String> {
        // Keeps the trial's keys; every operation has a session of its own, for one that fails may stay active.
        let owner = self.session().map_err(text)?;
        let (main, mac) = scheme::roles(scheme).ok_or("not a scheme of PKCS#11")?;
        let keys = Keys {
            main: trial_key(&owner, main)?,
            mac: mac.map(|role| trial_key(&owner, role)).transpose()?,
            kwp: None,
        };
        let trial = Trial {
            subject: self,
            scheme,
            dialect,
            keys,
        };
        for plaintext in [
            &b""[..],
            &[5; ODD_BYTES],
            &[7; 32],
            &[9; WRAP_PLAINTEXT_BYTES_MAX],
        ] {
            trial.round_trip(b"aad", plaintext)?;
        }
        trial.round_trip(b"", &[7; 32])?;
        let body = trial.seal(b"aad", &[7; 32])?;
        if trial.seal(b"aad", &[7; 32])? == body {
            return Err("it sealed the same thing twice alike".into());
        }
        trial.refuses("another AAD", b"other", &body)?;
        trial.refuses("no AAD", b"", &body)?;
        for index in [0, body.len() / 2, body.len().saturating_sub(1)] {
            let mut changed = body.clone();
            if let Some(byte) = changed.get_mut(index) {
                *byte ^= 1;
            }
            trial.refuses("a changed byte", b"aad", &changed)?;
        }
        Ok(())
    }

    /// Tries to generate a key of this role.
    pub(super) fn try_generating(self, role: Role) -> Result<(), String> {
        let session = self.session().map_err(text)?;
        trial_key(&session, role).map(|_key| ())
    }

    /// Tries `CKM_AES_CBC_PAD` alone.
    pub(super) fn try_cbc(self) -> Result<(), String> {
        let session = self.session().map_err(text)?;
        let key = trial_key(&session, Role::Cipher)?;
        let (iv, plaintext) = ([1; 16], [7; 32]);
        let mechanism = || Mechanism::WithIv(CKM_AES_CBC_PAD, &iv);
        let sealed = self.raw.encrypt(&session, key, mechanism(), &plaintext);
        let sealed = sealed.map_err(|failed| failed.to_string())?;
        let opened = self.raw.decrypt(&session, key, mechanism(), &sealed);
        let opened = opened.map_err(|failed| failed.to_string())?;
        if opened.as_slice() != plaintext {
            return Err("it opened to something else".into());
        }
        Ok(())
    }

    /// Tries `CKM_SHA256_HMAC` alone.
    pub(super) fn try_mac(self) -> Result<(), String> {
        let session = self.session().map_err(text)?;
        let key = trial_key(&session, Role::Mac)?;
        let mac = self.raw.sign(&session, key, CKM_SHA256_HMAC, b"trial");
        let mac = mac.map_err(|failed| failed.to_string())?;
        let verify = |data: &[u8]| self.raw.verify(&session, key, CKM_SHA256_HMAC, data, &mac);
        verify(b"trial").map_err(|failed| failed.to_string())?;
        match verify(b"other") {
            Ok(()) => Err("it took another message".into()),
            Err(failed) if may_blame_ciphertext(failed) => Ok(()),
            Err(failed) => Err(failed.to_string()),
        }
    }

    /// Tries to get a key out that must not leave: by wrapping it under another, by reading it, and by making it, or a
    /// copy of it, one that may leave. Each that succeeds is a danger.
    fn dangers(self) -> Result<Vec<String>, String> {
        let session = self.session().map_err(text)?;
        let wrapper = trial_key(&session, Role::Wrapper)?;
        let mut dangers = Vec::new();
        let victim = trial_key(&session, Role::Cipher)?;
        let target = Target::Object(victim);
        let iv = [1; 16];
        let mechanisms: [(&str, Mechanism<'_>); 6] = [
            (
                "CKM_AES_KEY_WRAP_KWP",
                Mechanism::Bare(CKM_AES_KEY_WRAP_KWP),
            ),
            ("CKM_AES_KEY_WRAP", Mechanism::Bare(CKM_AES_KEY_WRAP)),
            (
                "CKM_AES_KEY_WRAP_PAD",
                Mechanism::Bare(CKM_AES_KEY_WRAP_PAD),
            ),
            ("CKM_AES_CBC_PAD", Mechanism::WithIv(CKM_AES_CBC_PAD, &iv)),
            ("CKM_AES_CBC", Mechanism::WithIv(CKM_AES_CBC, &iv)),
            ("CKM_AES_ECB", Mechanism::Bare(CKM_AES_ECB)),
        ];
        for (name, mechanism) in mechanisms {
            if self.raw.wrap(&session, wrapper, mechanism, target).is_ok() {
                dangers.push(format!(
                    "a key with CKA_EXTRACTABLE false was wrapped by another key ({name})"
                ));
            }
        }
        let value = self.raw.value(&session, target);
        if value.is_ok_and(|value| !value.is_empty()) {
            dangers.push("the value of a key with CKA_SENSITIVE true was read".into());
        }
        let loosened = [
            ("CKA_EXTRACTABLE", Attribute::Extractable(true)),
            ("CKA_SENSITIVE", Attribute::Sensitive(false)),
        ];
        for (name, loose) in &loosened {
            let kind = [loose.attribute_type()];
            let loose = std::slice::from_ref(loose);
            if let Ok(copy) = session.copy_object(victim, loose)
                && is_so(&session, copy, &kind, loose)
            {
                dangers.push(format!("a key was copied, and {name} of the copy loosened"));
            }
            if session.update_attributes(victim, loose).is_ok()
                && is_so(&session, victim, &kind, loose)
            {
                dangers.push(format!("{name} of a key was loosened"));
            }
        }
        Ok(dangers)
    }
}

fn trial_key(session: &Session, role: Role) -> Result<ObjectHandle, String> {
    let made = session.generate_key(&role.mechanism(), &passing_template(role));
    made.map_err(|error| format!("C_GenerateKey: {}", text(error)))
}

fn is_so(
    session: &Session,
    object: ObjectHandle,
    kind: &[AttributeType],
    wanted: &[Attribute],
) -> bool {
    session
        .get_attributes(object, kind)
        .is_ok_and(|told| told == wanted)
}

/// The ways in which a token may do `scheme`, the standard's first.
fn variants(scheme: WrapScheme, known: Dialect) -> Vec<Dialect> {
    match scheme {
        WrapScheme::AesGcmTokenIv => [TokenIv::Written, TokenIv::Appended]
            .map(|token_iv| Dialect { token_iv, ..known })
            .to_vec(),
        WrapScheme::AesGcmMessage => [Generator::Token, Generator::Caller]
            .map(|generator| Dialect { generator, ..known })
            .to_vec(),
        WrapScheme::AesKwp => [false, true]
            .into_iter()
            .flat_map(|unwrap_length| {
                let of_number = move |kwp: CK_MECHANISM_TYPE| Dialect {
                    kwp,
                    unwrap_length,
                    ..known
                };
                [CKM_AES_KEY_WRAP_KWP, CKM_AES_KEY_WRAP_PAD].map(of_number)
            })
            .collect(),
        _ => vec![known],
    }
}

/// One scheme under trial.
struct Trial<'a> {
    subject: Subject<'a>,
    scheme: WrapScheme,
    dialect: Dialect,
    keys: Keys,
}

impl Trial<'_> {
    fn with_session<T>(&self, work: impl FnOnce(Bench<'_>) -> T) -> Result<T, String> {
        let session = self.subject.session().map_err(text)?;
        Ok(work(Bench {
            raw: self.subject.raw,
            session: &session,
            dialect: self.dialect,
        }))
    }

    fn seal(&self, aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, String> {
        self.with_session(|bench| scheme::seal(bench, self.scheme, self.keys, aad, plaintext))?
            .map_err(|error| with_source(&error))
    }

    fn round_trip(&self, aad: &[u8], plaintext: &[u8]) -> Result<(), String> {
        let body = self.seal(aad, plaintext)?;
        let opened =
            self.with_session(|bench| scheme::open(bench, self.scheme, self.keys, aad, &body))?;
        match opened {
            Ok(opened) if opened.as_slice() == plaintext => Ok(()),
            Ok(_) => Err("it opened to something else".into()),
            Err(NotOpened::Forged) => Err("it did not open again".into()),
            Err(NotOpened::Failed(failed)) => Err(failed.to_string()),
            Err(NotOpened::Other(error)) => Err(with_source(&error)),
        }
    }

    fn refuses(&self, what: &str, aad: &[u8], body: &[u8]) -> Result<(), String> {
        let opened =
            self.with_session(|bench| scheme::open(bench, self.scheme, self.keys, aad, body))?;
        match opened {
            Ok(_) => Err(format!("it took {what}")),
            Err(NotOpened::Forged) => Ok(()),
            Err(NotOpened::Failed(failed)) if may_blame_ciphertext(failed) => Ok(()),
            Err(NotOpened::Failed(failed)) => Err(format!("for {what}, {failed}")),
            Err(NotOpened::Other(error)) => Err(with_source(&error)),
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "an argument of map_err")]
fn text(error: cryptoki::error::Error) -> String {
    error.to_string()
}

/// What lies under an error, or else the error.
pub(super) fn with_source(error: &HsmError) -> String {
    match std::error::Error::source(error) {
        Some(source) => source.to_string(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_tried_is_a_warning_and_no_danger_that_was_seen() {
        let untried = Abilities {
            untried: Some("CKR_MECHANISM_INVALID".into()),
            ..Abilities::default()
        };
        let [warning] = &untried.warnings()[..] else {
            panic!("{untried:?}");
        };
        assert!(warning.contains("could not be tried"), "{warning}");
        assert!(untried.dangers.is_empty());
        assert_eq!(untried.past(), Past::Required);
        assert!(Abilities::default().warnings().is_empty());
    }
}
