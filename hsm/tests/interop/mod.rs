//! What is asked of every module, whatever its dialect.
#![allow(
    dead_code,
    reason = "each module's tests use those that are true of it"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use strongroom_hsm::pkcs11::{Pkcs11Config, Pkcs11Token};
use strongroom_hsm::testing::conformance;
use strongroom_hsm::{
    BackingKey, BackingKeyId, Curve, HsmError, HsmHandle, HsmSettings, ImportWrapping, KeyBlob,
    Report, RsaSize, SecretBytes, Session, SigningKey, Token, ToolSpec, WrapScheme,
};

/// Where `ci/modules` puts what it builds.
pub(crate) fn built_module(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../modules");
    installed(&target.join(name))
}

/// The module, which must be there.
pub(crate) fn installed(module: &Path) -> PathBuf {
    module
        .canonicalize()
        .unwrap_or_else(|error| panic!("no module {}: run ci/modules ({error})", module.display()))
}

/// Every kind of MAC key is to be had.
pub(crate) fn has_every_mac_key(token: &Arc<dyn Token>) {
    for spec in ToolSpec::MACS {
        if matches!(spec, ToolSpec::Hmac(_)) {
            assert_eq!(obstacle(token, spec), None, "{spec:?}");
        }
    }
}

/// Which pairs sign, made and used, and that no other is on offer.
pub(crate) fn signs(token: &Arc<dyn Token>, keys: &[SigningKey]) {
    for spec in ToolSpec::SIGNERS {
        let ToolSpec::Sign(key) = spec else {
            panic!("{spec:?} does not sign");
        };
        let obstacle = obstacle(token, spec);
        let does = keys.contains(&key);
        assert_eq!(obstacle.is_none(), does, "{key:?}: {obstacle:?}");
        if does {
            conformance::a_pair_is_made_and_signs(token, key);
        }
    }
}

/// RSA of every size, and every curve.
pub(crate) const EVERY_SIGNER: [SigningKey; 7] = [
    SigningKey::Rsa(RsaSize::Bits2048),
    SigningKey::Rsa(RsaSize::Bits3072),
    SigningKey::Rsa(RsaSize::Bits4096),
    SigningKey::Ec(Curve::P256),
    SigningKey::Ec(Curve::P384),
    SigningKey::Ec(Curve::P521),
    SigningKey::Ec(Curve::K256),
];

/// Which ways to wrap material it undoes, and that no other is on offer.
pub(crate) fn unwraps(token: &Arc<dyn Token>, wrappings: &[ImportWrapping]) {
    for wrapping in ImportWrapping::ALL {
        let obstacle = obstacle(token, ToolSpec::Unwrap(RsaSize::Bits4096, wrapping));
        let does = wrappings.contains(&wrapping);
        assert_eq!(obstacle.is_none(), does, "{wrapping:?}: {obstacle:?}");
    }
}

pub(crate) fn obstacle(token: &Arc<dyn Token>, spec: ToolSpec) -> Option<String> {
    open(token).tool_obstacle(spec).expect("answers")
}

/// A directory of the test process's own. It stays behind in Cargo's, for a test process has no last moment.
pub(crate) fn directory(prefix: &str) -> PathBuf {
    tempfile::Builder::new()
        .prefix(prefix)
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .expect("a directory")
        .keep()
}

pub(crate) fn config(module: &Path, label: &str, pin_file: &Path) -> Pkcs11Config {
    let label = label.replace(' ', "%20");
    let uri = format!(
        "pkcs11:token={label}?module-path={}&pin-source={}",
        module.display(),
        pin_file.display()
    );
    Pkcs11Config::from_uri(&uri).expect("a valid URI")
}

pub(crate) fn token(config: Pkcs11Config) -> Arc<dyn Token> {
    Arc::new(Pkcs11Token::new(config))
}

/// The same with new keys of this scheme.
pub(crate) fn forced(config: &Pkcs11Config, scheme: WrapScheme) -> Arc<dyn Token> {
    token(Pkcs11Config {
        scheme: Some(scheme),
        ..config.clone()
    })
}

pub(crate) fn fresh_id() -> BackingKeyId {
    BackingKeyId::random().expect("randomness")
}

pub(crate) fn open(token: &Arc<dyn Token>) -> Box<dyn Session> {
    token.open_session().expect("a session opens")
}

pub(crate) fn new_key(session: &mut dyn Session) -> BackingKey {
    let id = fresh_id();
    let blob = session.generate_key(&id, "interop").expect("generates");
    let canary = session.make_canary(&id, &blob).expect("makes a canary");
    BackingKey { id, blob, canary }
}

/// What the report says of one thing.
pub(crate) fn fact(report: &Report, subject: &str, name: &str) -> String {
    let found = report
        .facts
        .iter()
        .find(|fact| fact.subject == subject && fact.name == name);
    let found = found.unwrap_or_else(|| panic!("no {subject} {name} in {report:#?}"));
    found.value.clone()
}

/// New keys get this scheme without being told to.
pub(crate) fn chooses(token: &Arc<dyn Token>, scheme: WrapScheme) {
    let mut session = open(token);
    let key = new_key(session.as_mut());
    assert_eq!(key.canary.0.scheme(), Some(scheme));
    let wrapped = session.wrap(&key, b"", &[1; 32]).expect("wraps");
    assert_eq!(wrapped.scheme(), Some(scheme));
    session.destroy_key(&key.id).expect("destroys");
}

/// A key is used by the scheme of its canary, whatever new keys would get.
pub(crate) fn a_key_keeps_its_scheme(config: &Pkcs11Config, first: WrapScheme, then: WrapScheme) {
    let (first_token, then_token) = (forced(config, first), forced(config, then));
    let mut old = open(&first_token);
    let key = new_key(old.as_mut());
    let wrapped = old.wrap(&key, b"a", &[1; 32]).expect("wraps");
    let mut new = open(&then_token);
    let back = new.unwrap(&key, b"a", &wrapped).expect("unwraps");
    assert_eq!(back.expose(), [1; 32]);
    let again = new.wrap(&key, b"a", &[2; 32]).expect("wraps");
    assert_eq!(again.scheme(), Some(first));
    let other = new_key(new.as_mut());
    assert_eq!(other.canary.0.scheme(), Some(then));
    let foreign = new.wrap(&other, b"a", &[1; 32]).expect("wraps");
    let refused = old.unwrap(&key, b"a", &foreign);
    assert!(matches!(refused, Err(HsmError::Unauthentic)), "{refused:?}");
    new.destroy_key(&key.id).expect("destroys");
    new.destroy_key(&other.id).expect("destroys");
}

/// A key whose making ended before its canary gets one later, whatever new keys would get by then.
pub(crate) fn a_key_without_a_canary_gets_one_of_its_kind(
    config: &Pkcs11Config,
    first: WrapScheme,
    then: WrapScheme,
) {
    let id = fresh_id();
    let mut session = open(&forced(config, first));
    session.generate_key(&id, "interop").expect("generates");
    let mut later = open(&forced(config, then));
    let canary = later.make_canary(&id, &KeyBlob::EMPTY).expect("makes one");
    assert_eq!(canary.0.scheme(), Some(first));
    later.destroy_key(&id).expect("destroys");
}

/// Many workers at once, through the handle.
pub(crate) async fn many_workers_wrap_at_once(token: Arc<dyn Token>) {
    let hsm = HsmHandle::start(token, HsmSettings::default()).expect("starts");
    let key = hsm
        .generate_key(fresh_id(), "workers")
        .await
        .expect("generates");
    let calls = (0..48_u8).map(|number| {
        let (hsm, key) = (hsm.clone(), key.clone());
        tokio::spawn(async move {
            let secret = SecretBytes::new(vec![number; 32]).expect("is short enough");
            let wrapped = hsm.wrap(&key, vec![number], secret).await.expect("wraps");
            let back = hsm.unwrap(&key, vec![number], wrapped).await;
            assert_eq!(back.expect("unwraps").expose(), [number; 32]);
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.expect("does not panic");
    }
    hsm.destroy_key(key.id).await.expect("destroys");
    hsm.shutdown().await;
}

/// A report with one key of each of `schemes` on the token, printed for who runs one test.
pub(crate) fn report_with_keys(token: &Pkcs11Config, schemes: &[WrapScheme]) -> Report {
    let insisting = Pkcs11Config {
        allow_unsafe: true,
        ..token.clone()
    };
    let keys = schemes.iter().map(|scheme| {
        let mut session = open(&forced(&insisting, *scheme));
        (new_key(session.as_mut()), session)
    });
    let mut keys: Vec<_> = keys.collect();
    let report = self::token(token.clone()).report().expect("reports");
    for fact in &report.facts {
        println!("{}: {}: {}", fact.subject, fact.name, fact.value);
    }
    for danger in &report.dangers {
        println!("danger: {danger}");
    }
    for (key, session) in &mut keys {
        session.destroy_key(&key.id).expect("destroys");
    }
    report
}
