//! kryoptic speaks PKCS#11 v3.2 and has every scheme but one: AES-GCM, its message interface, key wrap, CBC and HMAC.

mod interop;

use std::path::PathBuf;
use std::sync::OnceLock;

use strongroom_hsm::pkcs11::{Pkcs11Config, init_token};
use strongroom_hsm::testing::conformance;
use strongroom_hsm::{Curve, HashFunction, ImportWrapping, SigningKey, ToolSpec, WrapScheme};

const PIN: &str = "1234-strongroom";

/// The token of the process, made before the module is loaded.
fn kryoptic() -> &'static Pkcs11Config {
    static TOKEN: OnceLock<Pkcs11Config> = OnceLock::new();
    TOKEN.get_or_init(|| {
        let module: PathBuf = interop::built_module("libkryoptic_pkcs11.so");
        let dir = interop::directory("kryoptic-");
        let conf = dir.join("token.conf");
        let text = format!(
            "[[slots]]\nslot = 1\ndbtype = \"sqlite\"\ndbargs = \"{}\"\n",
            dir.join("token.sql").display()
        );
        std::fs::write(&conf, text).expect("writes");
        #[expect(
            unsafe_code,
            reason = "kryoptic is told its configuration by the environment of the process"
        )]
        // SAFETY: every test calls this first, through the OnceLock, and nothing reads the environment before.
        unsafe {
            std::env::set_var("KRYOPTIC_CONF", &conf);
        }
        init_token(&module, "main", "so-12345", PIN).expect("makes a token");
        let pin_file = dir.join("pin");
        std::fs::write(&pin_file, PIN).expect("writes");
        interop::config(&module, "main", &pin_file)
    })
}

#[test]
fn kryoptic_keeps_the_contract() {
    let token = interop::token(kryoptic().clone());
    conformance::run_all(&token);
    conformance::an_imported_key_does_not_pass_for_a_made_one(&token);
    interop::has_every_mac_key(&token);
    interop::unwraps(&token, &ImportWrapping::ALL);
    let has = |key: &SigningKey| *key != SigningKey::Ec(Curve::K256);
    let signers: Vec<_> = interop::EVERY_SIGNER.into_iter().filter(has).collect();
    interop::signs(&token, &signers);
}

#[test]
fn kryoptic_keeps_the_contract_with_the_message_interface() {
    conformance::run_all(&interop::forced(kryoptic(), WrapScheme::AesGcmMessage));
}

#[test]
fn kryoptic_keeps_the_contract_with_key_wrap() {
    conformance::run_all(&interop::forced(kryoptic(), WrapScheme::AesKwp));
}

#[test]
fn kryoptic_keeps_the_contract_with_cbc_and_hmac() {
    conformance::run_all(&interop::forced(kryoptic(), WrapScheme::AesCbcHmac));
}

#[test]
fn kryoptic_gets_aes_gcm_unless_told_otherwise() {
    interop::chooses(&interop::token(kryoptic().clone()), WrapScheme::AesGcm);
}

#[test]
fn a_key_keeps_its_scheme_when_another_is_chosen() {
    let schemes = [
        WrapScheme::AesGcm,
        WrapScheme::AesGcmMessage,
        WrapScheme::AesKwp,
        WrapScheme::AesCbcHmac,
    ];
    for first in schemes {
        for then in schemes.into_iter().filter(|then| *then != first) {
            interop::a_key_keeps_its_scheme(kryoptic(), first, then);
        }
    }
}

#[test]
fn a_key_without_a_canary_gets_one_of_its_kind() {
    let first = [WrapScheme::AesKwp, WrapScheme::AesCbcHmac];
    for (first, then) in first
        .map(|first| (first, WrapScheme::AesGcm))
        .into_iter()
        .chain([(WrapScheme::AesGcm, WrapScheme::AesKwp)])
    {
        interop::a_key_without_a_canary_gets_one_of_its_kind(kryoptic(), first, then);
    }
}

#[tokio::test]
async fn many_workers_wrap_at_once_by_each_scheme() {
    for scheme in [
        WrapScheme::AesGcm,
        WrapScheme::AesGcmMessage,
        WrapScheme::AesKwp,
        WrapScheme::AesCbcHmac,
    ] {
        interop::many_workers_wrap_at_once(interop::forced(kryoptic(), scheme)).await;
    }
}

#[test]
fn the_report_finds_every_scheme_and_no_danger() {
    let schemes = [
        WrapScheme::AesGcm,
        WrapScheme::AesKwp,
        WrapScheme::AesCbcHmac,
    ];
    let mut session = interop::open(&interop::token(kryoptic().clone()));
    let (tool, spec) = (interop::fresh_id(), ToolSpec::Hmac(HashFunction::Sha512));
    session
        .generate_tool(&tool, spec, "a tool")
        .expect("generates");
    let report = interop::report_with_keys(kryoptic(), &schemes);
    assert_eq!(interop::fact(&report, "tool", "HMAC_512"), "works");
    let told = interop::fact(&report, "key", &format!("{tool} (HMAC_512)"));
    assert!(told.ends_with("usage=SIGN+VERIFY"), "{told}");
    session.destroy_key(&tool).expect("destroys");
    for scheme in ["aes-gcm", "aes-gcm-message", "aes-kwp", "aes-cbc-hmac"] {
        assert_eq!(interop::fact(&report, "scheme", scheme), "works");
    }
    let refused = interop::fact(&report, "scheme", "aes-gcm-token-iv");
    assert!(refused.starts_with("does not work: "), "{refused}");
    assert_eq!(interop::fact(&report, "scheme", "of new keys"), "aes-gcm");
    assert_eq!(report.dangers, Vec::<String>::new());
}
