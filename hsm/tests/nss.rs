//! NSS softokn speaks PKCS#11 v3.0, wants an init string, and lets a key be wrapped that must not leave it: an unsafe
//! token, which is refused, reported, and used only by who insists.

mod interop;

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use strongroom_hsm::pkcs11::Pkcs11Config;
use strongroom_hsm::testing::conformance;
use strongroom_hsm::{HsmError, KeyBlob, WrapScheme};

const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/libsoftokn3.so";
/// NSS names the token that has keys so.
const LABEL: &str = "NSS Certificate DB";
const PIN: &str = "1234-strongroom";

/// The token of the process, for one who does not insist.
fn cautious() -> &'static Pkcs11Config {
    static TOKEN: OnceLock<Pkcs11Config> = OnceLock::new();
    TOKEN.get_or_init(|| {
        let module = interop::installed(Path::new(LIBRARY));
        let dir = interop::directory("nss-");
        let pin_file = dir.join("pin");
        std::fs::write(&pin_file, format!("{PIN}\n")).expect("writes");
        let database = format!("sql:{}", dir.display());
        let made = Command::new("certutil")
            .args(["-N", "-d", &database, "-f"])
            .arg(&pin_file)
            .output()
            .expect("certutil must be installed: run ci/modules");
        assert!(made.status.success(), "{made:?}");
        let init_args =
            format!("configdir='{database}' certPrefix='' keyPrefix='' secmod='secmod.db' flags=");
        Pkcs11Config {
            init_args: Some(init_args),
            ..interop::config(&module, LABEL, &pin_file)
        }
    })
}

/// The same for one who does.
fn insisting() -> Pkcs11Config {
    Pkcs11Config {
        allow_unsafe: true,
        ..cautious().clone()
    }
}

#[test]
fn nss_is_refused_as_unsafe() {
    let refused = interop::token(cautious().clone()).open_session().err();
    match refused {
        Some(HsmError::UnsafeToken(reason)) => {
            assert!(reason.contains("CKA_EXTRACTABLE"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn nss_keeps_the_contract_for_one_who_insists() {
    conformance::run_all(&interop::token(insisting()));
}

#[test]
fn nss_keeps_the_contract_with_the_message_interface() {
    conformance::run_all(&interop::forced(&insisting(), WrapScheme::AesGcmMessage));
}

/// NSS keeps one secret key of a `CKA_ID`, and forgets the MAC key when the AES key comes. The trial, whose keys have no
/// identity, cannot see that; the canary does.
#[test]
fn half_a_pair_is_refused_where_the_token_lost_the_other_half() {
    let mut session = interop::open(&interop::forced(&insisting(), WrapScheme::AesCbcHmac));
    let id = interop::fresh_id();
    session.generate_key(&id, "pair").expect("seems to work");
    let refused = session.make_canary(&id, &KeyBlob::EMPTY);
    assert!(
        matches!(&refused, Err(HsmError::Unfit { reason, .. }) if reason.contains("half a pair")),
        "{refused:?}"
    );
    session.destroy_key(&id).expect("destroys");
    assert!(!session.contains(&id).expect("answers"));
}

#[test]
fn nss_keeps_the_contract_with_key_wrap() {
    conformance::run_all(&interop::forced(&insisting(), WrapScheme::AesKwp));
}

#[test]
fn nss_gets_aes_gcm_unless_told_otherwise() {
    interop::chooses(&interop::token(insisting()), WrapScheme::AesGcm);
}

#[test]
fn a_second_init_string_for_one_module_is_refused() {
    interop::token(insisting()).open_session().expect("opens");
    let other = Pkcs11Config {
        init_args: None,
        ..insisting()
    };
    let refused = interop::token(other).open_session().err();
    assert!(matches!(refused, Some(HsmError::Config(_))), "{refused:?}");
}

#[tokio::test]
async fn many_workers_wrap_at_once() {
    interop::many_workers_wrap_at_once(interop::token(insisting())).await;
}

#[test]
fn the_report_names_the_danger_without_insisting() {
    let report = interop::report_with_keys(cautious(), &[WrapScheme::AesGcm]);
    let names = |what: &str| report.dangers.iter().any(|danger| danger.contains(what));
    assert!(names("was wrapped by another key"), "{report:#?}");
    assert!(names("CKA_LOCAL is not as it must be"), "{report:#?}");
    assert_eq!(interop::fact(&report, "scheme", "of new keys"), "aes-gcm");
}
