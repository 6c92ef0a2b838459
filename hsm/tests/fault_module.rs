//! Every fault of the fault module, through the C ABI, on a token under load: nothing that was acknowledged is lost, no
//! wrong plaintext is given, nobody is blamed for the module's fault, and the token heals by itself.
//!
//! A test is a function of a token, so that a list of them runs on each way to reach one.

mod support;

#[path = "fault_module/ordeal.rs"]
mod ordeal;

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::Attribute;
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use cryptoki_sys as sys;
use strongroom_fault_module::{CONTROL_VARIABLE, Fault, INNER_VARIABLE};
use strongroom_hsm::testing::conformance;
use strongroom_hsm::{
    BackingKey, Curve, HashFunction, HsmError, HsmHandle, HsmSettings, ImportWrapping, KeyBlob,
    Material, RsaSize, SecretBytes, Session, SignatureAlgorithm, SigningKey, State, Token, ToolKey,
    ToolSpec,
};

use ordeal::{Bench, LABEL, fresh_id, fresh_key, ordeal, start};
use support::{MODULE, PIN};

/// What a session is used for.
const USES: [&str; 5] = [
    "C_EncryptInit",
    "C_DecryptInit",
    "C_FindObjectsInit",
    "C_GetAttributeValue",
    "C_GenerateRandom",
];

/// A test for each function of a bench and a token, with the token reached in one way.
macro_rules! tests_on {
    ($way:ident: $token:expr => $($test:ident)*) => {
        mod $way {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let bench = super::Bench::new();
                let token = $token(&bench);
                super::$test(&bench, token).await;
            })*
        }
    };
}

// Faults that the process survives, so that they can be had in it.
tests_on! { thread: super::Bench::token =>
    lost_sessions_are_opened_again
    sessions_closed_behind_our_back_are_opened_again
    a_session_lost_once_costs_no_call
    invalid_object_handles_are_found_again
    a_removed_device_is_found_again
    an_absent_token_is_found_again
    a_user_said_to_be_logged_out_logs_in_again
    a_user_logged_out_behind_our_back_logs_in_again
    a_login_that_is_there_already_is_as_good
    a_login_said_to_be_there_that_is_not_heals
    general_errors_of_encrypt_are_the_tokens
    general_errors_of_decrypt_are_the_tokens
    general_errors_of_find_are_the_tokens
    general_errors_now_and_then_blame_nobody
    failed_functions_are_the_tokens
    an_ill_token_does_not_say_that_material_is_another
    no_more_sessions_for_a_while
    no_memory_for_a_while
    a_wrong_ciphertext_is_never_acknowledged
    a_wrong_plaintext_is_found_out_at_the_next_canary
    an_output_length_beyond_the_buffer_is_refused
    an_output_length_within_the_buffer_is_refused
    a_handle_of_another_key_is_not_used
    keys_renumbered_with_their_sessions_lost_are_found_again
    keys_renumbered_without_a_word_are_noticed_within_a_second
    a_slow_token_is_waited_for
    a_token_slower_than_the_deadline_times_out
    one_call_that_hangs_leaves_the_others_be
    calls_that_all_hang_heal_when_they_return
    gcm_that_is_gone_is_missed_cleanly
    a_token_that_wants_zeros_for_an_iv_refuses_ours_cleanly
    an_unclear_login_is_not_repeated_when_few_tries_are_left
    a_login_that_fails_for_no_known_reason_is_tried_once
    no_pin_is_tried_when_the_next_wrong_one_would_lock_the_token
}

// Every fault, with the module in processes of its own.
tests_on! { process: super::Bench::token_in_processes =>
    lost_sessions_are_opened_again
    sessions_closed_behind_our_back_are_opened_again
    a_session_lost_once_costs_no_call
    invalid_object_handles_are_found_again
    a_removed_device_is_found_again
    an_absent_token_is_found_again
    a_user_said_to_be_logged_out_logs_in_again
    a_user_logged_out_behind_our_back_logs_in_again
    a_login_that_is_there_already_is_as_good
    a_login_said_to_be_there_that_is_not_heals
    general_errors_of_encrypt_are_the_tokens
    general_errors_of_decrypt_are_the_tokens
    general_errors_of_find_are_the_tokens
    general_errors_now_and_then_blame_nobody
    failed_functions_are_the_tokens
    an_ill_token_does_not_say_that_material_is_another
    no_more_sessions_for_a_while
    no_memory_for_a_while
    a_wrong_ciphertext_is_never_acknowledged
    a_wrong_plaintext_is_found_out_at_the_next_canary
    an_output_length_beyond_the_buffer_is_refused
    an_output_length_within_the_buffer_is_refused
    a_handle_of_another_key_is_not_used
    keys_renumbered_with_their_sessions_lost_are_found_again
    keys_renumbered_without_a_word_are_noticed_within_a_second
    a_slow_token_is_waited_for
    a_token_slower_than_the_deadline_times_out
    one_call_that_hangs_leaves_the_others_be
    calls_that_all_hang_heal_when_they_return
    gcm_that_is_gone_is_missed_cleanly
    a_token_that_wants_zeros_for_an_iv_refuses_ours_cleanly
    calls_that_hang_for_ever_cost_a_process_and_no_more
    a_module_that_crashes_ends_its_own_process_only
    a_module_that_crashes_in_every_login_is_not_given_the_pin_at_will
    an_unclear_login_is_not_repeated_when_few_tries_are_left
    a_login_that_fails_for_no_known_reason_is_tried_once
    no_pin_is_tried_when_the_next_wrong_one_would_lock_the_token
}

async fn lost_sessions_are_opened_again(bench: &Bench, token: Arc<dyn Token>) {
    let fault = || vec![bench.arm(&USES, Fault::Answer(sys::CKR_SESSION_HANDLE_INVALID))];
    ordeal("CKR_SESSION_HANDLE_INVALID", token, fault)
        .await
        .assert_sound();
}

async fn sessions_closed_behind_our_back_are_opened_again(bench: &Bench, token: Arc<dyn Token>) {
    let fault = || vec![bench.arm_for(&["C_EncryptInit"], Fault::CloseSessions, 5)];
    ordeal("sessions really closed", token, fault)
        .await
        .assert_sound();
}

async fn a_session_lost_once_costs_no_call(bench: &Bench, token: Arc<dyn Token>) {
    let lost = Fault::Answer(sys::CKR_SESSION_HANDLE_INVALID);
    let fault = || vec![bench.arm_for(&["C_EncryptInit"], lost, 1)];
    let figures = ordeal("one session lost", token, fault).await;
    figures.assert_sound();
    assert_eq!(figures.failures(), 0, "{figures}");
}

async fn invalid_object_handles_are_found_again(bench: &Bench, token: Arc<dyn Token>) {
    let invalid = Fault::Answer(sys::CKR_OBJECT_HANDLE_INVALID);
    let keys = Fault::Answer(sys::CKR_KEY_HANDLE_INVALID);
    let fault = || {
        vec![
            bench.arm(&["C_GetAttributeValue"], invalid),
            bench.arm(&["C_EncryptInit", "C_DecryptInit"], keys),
        ]
    };
    ordeal("CKR_OBJECT_HANDLE_INVALID", token, fault)
        .await
        .assert_sound();
}

async fn a_removed_device_is_found_again(bench: &Bench, token: Arc<dyn Token>) {
    let fault = || vec![bench.arm(&["any"], Fault::Answer(sys::CKR_DEVICE_REMOVED))];
    ordeal("CKR_DEVICE_REMOVED", token, fault)
        .await
        .assert_sound();
}

async fn an_absent_token_is_found_again(bench: &Bench, token: Arc<dyn Token>) {
    let absent = Fault::Answer(sys::CKR_TOKEN_NOT_PRESENT);
    let functions = [&USES[..], &["C_OpenSession", "C_GetTokenInfo"]].concat();
    let fault = || vec![bench.arm(&functions, absent)];
    ordeal("CKR_TOKEN_NOT_PRESENT", token, fault)
        .await
        .assert_sound();
}

async fn a_user_said_to_be_logged_out_logs_in_again(bench: &Bench, token: Arc<dyn Token>) {
    let fault = || vec![bench.arm(&USES, Fault::Answer(sys::CKR_USER_NOT_LOGGED_IN))];
    ordeal("CKR_USER_NOT_LOGGED_IN", token, fault)
        .await
        .assert_sound();
}

async fn a_user_logged_out_behind_our_back_logs_in_again(bench: &Bench, token: Arc<dyn Token>) {
    let fault = || vec![bench.arm_for(&["C_EncryptInit", "C_DecryptInit"], Fault::LogOut, 5)];
    ordeal("user really logged out", token, fault)
        .await
        .assert_sound();
}

async fn a_login_that_is_there_already_is_as_good(bench: &Bench, token: Arc<dyn Token>) {
    let already = Fault::AnswerAfter(sys::CKR_USER_ALREADY_LOGGED_IN);
    let fault = || {
        vec![
            bench.arm(&["C_Login"], already),
            bench.arm_for(&["C_EncryptInit"], Fault::LogOut, 3),
        ]
    };
    ordeal("CKR_USER_ALREADY_LOGGED_IN after a login", token, fault)
        .await
        .assert_sound();
}

async fn a_login_said_to_be_there_that_is_not_heals(bench: &Bench, token: Arc<dyn Token>) {
    let already = Fault::Answer(sys::CKR_USER_ALREADY_LOGGED_IN);
    let fault = || {
        vec![
            bench.arm(&["C_Login"], already),
            bench.arm_for(&["C_EncryptInit"], Fault::LogOut, 1),
        ]
    };
    ordeal("CKR_USER_ALREADY_LOGGED_IN and no login", token, fault)
        .await
        .assert_sound();
}

async fn general_errors_of_encrypt_are_the_tokens(bench: &Bench, token: Arc<dyn Token>) {
    let fault = || vec![bench.arm(&["C_Encrypt"], Fault::Answer(sys::CKR_GENERAL_ERROR))];
    ordeal("CKR_GENERAL_ERROR of C_Encrypt", token, fault)
        .await
        .assert_sound();
}

async fn general_errors_of_decrypt_are_the_tokens(bench: &Bench, token: Arc<dyn Token>) {
    let fault = || vec![bench.arm(&["C_Decrypt"], Fault::Answer(sys::CKR_GENERAL_ERROR))];
    ordeal("CKR_GENERAL_ERROR of C_Decrypt", token, fault)
        .await
        .assert_sound();
}

async fn general_errors_of_find_are_the_tokens(bench: &Bench, token: Arc<dyn Token>) {
    let fault = || vec![bench.arm(&["C_FindObjects"], Fault::Answer(sys::CKR_GENERAL_ERROR))];
    ordeal("CKR_GENERAL_ERROR of C_FindObjects", token, fault)
        .await
        .assert_sound();
}

/// A single failure, many times over: each call is repeated, and good ciphertexts stay good.
async fn general_errors_now_and_then_blame_nobody(bench: &Bench, token: Arc<dyn Token>) {
    let hiccup = Fault::Answer(sys::CKR_GENERAL_ERROR);
    let fault = || {
        let mut armed = Vec::new();
        for _ in 0..20 {
            armed.push(bench.arm_for(&["C_Decrypt"], hiccup, 1));
            std::thread::sleep(Duration::from_millis(30));
        }
        armed
    };
    let figures = ordeal("CKR_GENERAL_ERROR now and then", token, fault).await;
    figures.assert_sound();
    assert_eq!((figures.hits, figures.failures()), (20, 0), "{figures}");
}

async fn an_ill_token_does_not_say_that_material_is_another(bench: &Bench, token: Arc<dyn Token>) {
    let open = || token.open_session().expect("a session");
    let spec = ToolSpec::Unwrap(RsaSize::Bits2048, ImportWrapping::OaepSha1);
    let id = fresh_id();
    let blob = open().generate_tool(&id, spec, "unwraps").expect("a pair");
    let proof = open().prove_tool(&id, spec, &blob).expect("unwraps");
    let unwrapper = ToolKey { id, spec, proof };
    let import = |bytes: [u8; 32], same_as| Material {
        wrapped: under(&unwrapper, &bytes),
        unwrapper: unwrapper.clone(),
        same_as,
    };
    let id = fresh_id();
    let blob = open().import_key(&import([7; 32], None), Some((&id, "ordeal")));
    let blob = blob.expect("imports");
    let canary = open().make_canary(&id, &blob).expect("a canary");
    let key = Some(BackingKey { id, blob, canary });
    let same = import([7; 32], key.clone());
    for code in [
        sys::CKR_GENERAL_ERROR,
        sys::CKR_DEVICE_ERROR,
        sys::CKR_FUNCTION_FAILED,
    ] {
        let ill = bench.arm(&["C_Decrypt"], Fault::Answer(code));
        let answer = open().import_key(&same, None);
        assert!(
            matches!(answer, Err(HsmError::Device { .. })),
            "{code}: {answer:?}"
        );
        drop(ill);
        let _hiccup = bench.arm_for(&["C_Decrypt"], Fault::Answer(code), 1);
        open().import_key(&same, None).expect("is the same");
    }
    let other = open().import_key(&import([8; 32], key), None);
    assert!(matches!(other, Err(HsmError::OtherMaterial)), "{other:?}");
}

/// Material, wrapped under the public half of a pair.
fn under(unwrapper: &ToolKey, material: &[u8]) -> Vec<u8> {
    let public = PublicEncryptingKey::from_der(unwrapper.proof.as_bytes()).expect("a public key");
    let public = OaepPublicEncryptingKey::new(public).expect("for OAEP");
    let mut wrapped = vec![0; public.ciphertext_size()];
    public
        .encrypt(&OAEP_SHA1_MGF1SHA1, material, &mut wrapped, None)
        .expect("wraps");
    wrapped
}

async fn failed_functions_are_the_tokens(bench: &Bench, token: Arc<dyn Token>) {
    let failed = Fault::Answer(sys::CKR_FUNCTION_FAILED);
    let functions = ["C_Encrypt", "C_Decrypt", "C_OpenSession"];
    let fault = || vec![bench.arm(&functions, failed)];
    ordeal("CKR_FUNCTION_FAILED", token, fault)
        .await
        .assert_sound();
}

async fn no_more_sessions_for_a_while(bench: &Bench, token: Arc<dyn Token>) {
    let fault = || {
        vec![
            bench.arm(&["C_OpenSession"], Fault::Answer(sys::CKR_SESSION_COUNT)),
            bench.arm_for(&["C_EncryptInit"], Fault::CloseSessions, 1),
        ]
    };
    ordeal("CKR_SESSION_COUNT", token, fault)
        .await
        .assert_sound();
}

async fn no_memory_for_a_while(bench: &Bench, token: Arc<dyn Token>) {
    let fault = || vec![bench.arm(&USES, Fault::Answer(sys::CKR_DEVICE_MEMORY))];
    ordeal("CKR_DEVICE_MEMORY", token, fault)
        .await
        .assert_sound();
}

async fn a_wrong_ciphertext_is_never_acknowledged(bench: &Bench, token: Arc<dyn Token>) {
    let fault = || vec![bench.arm(&["C_Encrypt"], Fault::Flip(5))];
    let figures = ordeal("a flipped bit of ciphertext", token, fault).await;
    figures.assert_sound();
    assert!(figures.failed_with("WrapNotReadable") > 0, "{figures}");
}

/// Only the token can check its tag: a wrong plaintext with `CKR_OK` goes through to whoever has bound the data key to
/// something (the envelope has). What is promised here: no wrap is acknowledged, and when the handle is next proven by
/// its canary, within a second, the token is found out.
async fn a_wrong_plaintext_is_found_out_at_the_next_canary(bench: &Bench, token: Arc<dyn Token>) {
    let fault = || vec![bench.arm(&["C_Decrypt"], Fault::Flip(5))];
    let figures = ordeal("a flipped bit of plaintext", token, fault).await;
    figures.assert_nothing_lost();
    assert!(figures.failed_with("WrapNotReadable") > 0, "{figures}");
    assert!(
        figures.wrong_until < Duration::from_millis(1100),
        "{:?}: {figures}",
        figures.wrong_until
    );
}

async fn an_output_length_beyond_the_buffer_is_refused(bench: &Bench, token: Arc<dyn Token>) {
    let too_long = Fault::Length(sys::CK_ULONG::MAX);
    let fault = || vec![bench.arm(&["C_Encrypt", "C_Decrypt"], too_long)];
    ordeal("an output of 2^64 bytes", token, fault)
        .await
        .assert_sound();
}

async fn an_output_length_within_the_buffer_is_refused(bench: &Bench, token: Arc<dyn Token>) {
    let fault = || vec![bench.arm(&["C_Encrypt", "C_Decrypt"], Fault::Length(64))];
    ordeal("an output of 64 bytes", token, fault)
        .await
        .assert_sound();
}

async fn a_handle_of_another_key_is_not_used(bench: &Bench, token: Arc<dyn Token>) {
    let fault = || vec![bench.arm(&["C_FindObjects"], Fault::SwapKeys)];
    let figures = ordeal("C_FindObjects gives another key", token, fault).await;
    figures.assert_sound();
    assert!(figures.failed_with("Unfit") > 0, "{figures}");
}

/// What a network HSM does when it comes back: sessions are gone, and the same numbers mean other keys.
async fn keys_renumbered_with_their_sessions_lost_are_found_again(
    bench: &Bench,
    token: Arc<dyn Token>,
) {
    let fault = || vec![bench.arm(&["any"], Fault::Renumber)];
    ordeal("keys renumbered, sessions lost", token, fault)
        .await
        .assert_sound();
}

/// The limit of what is noticed: the numbers mean other keys from one call to the next, and the sessions live on. A wrap
/// then reads back with the wrong key, too. The handle is trusted for a second at most, and only what was wrapped within
/// it, as the renumbering began or ended, is lost.
async fn keys_renumbered_without_a_word_are_noticed_within_a_second(
    bench: &Bench,
    token: Arc<dyn Token>,
) {
    let fault = || vec![bench.arm(&["any"], Fault::SwapKeys)];
    let figures = ordeal("keys renumbered without a word", token, fault).await;
    assert!(figures.hits > 0 && figures.acknowledged > 0, "{figures}");
    assert_eq!(figures.wrong, 0, "{figures}");
    assert!(
        figures.lost_until < Duration::from_millis(1100),
        "{:?}: {figures}",
        figures.lost_until
    );
}

async fn a_slow_token_is_waited_for(bench: &Bench, token: Arc<dyn Token>) {
    let fault = || vec![bench.arm(&["C_Encrypt", "C_Decrypt"], Fault::Slow(50))];
    let figures = ordeal("50 ms a call", token, fault).await;
    figures.assert_sound();
    assert_eq!(figures.failures(), 0, "{figures}");
}

async fn a_token_slower_than_the_deadline_times_out(bench: &Bench, token: Arc<dyn Token>) {
    let fault = || vec![bench.arm(&["C_Encrypt", "C_Decrypt"], Fault::Slow(1200))];
    let figures = ordeal("1200 ms a call", token, fault).await;
    figures.assert_sound();
    assert!(figures.failed_with("Timeout") > 0, "{figures}");
    assert!(figures.slowest < Duration::from_secs(1), "{figures}");
}

async fn one_call_that_hangs_leaves_the_others_be(bench: &Bench, token: Arc<dyn Token>) {
    let fault = || vec![bench.arm_for(&["C_Encrypt"], Fault::HangUntilLifted, 1)];
    let figures = ordeal("one call hangs", token, fault).await;
    figures.assert_sound();
    // None, where the worker that hangs is ended and another one repeats the call in time.
    assert!(figures.failures() <= 1, "{figures}");
}

async fn calls_that_all_hang_heal_when_they_return(bench: &Bench, token: Arc<dyn Token>) {
    let fault = || vec![bench.arm(&["C_Encrypt", "C_Decrypt"], Fault::HangUntilLifted)];
    let figures = ordeal("every call hangs", token, fault).await;
    figures.assert_sound();
    assert!(figures.failed_with("Timeout") > 0, "{figures}");
    assert!(figures.failed_with("Unavailable") > 0, "{figures}");
}

async fn gcm_that_is_gone_is_missed_cleanly(bench: &Bench, token: Arc<dyn Token>) {
    let fault = || vec![bench.arm(&["any"], Fault::NoMechanism(sys::CKM_AES_GCM))];
    ordeal("no CKM_AES_GCM", token, fault).await.assert_sound();
}

async fn a_token_that_wants_zeros_for_an_iv_refuses_ours_cleanly(
    bench: &Bench,
    token: Arc<dyn Token>,
) {
    let fault = || vec![bench.arm(&["C_EncryptInit"], Fault::ZeroIv)];
    ordeal("IV refused", token, fault).await.assert_sound();
}

/// The module's process can be ended, and the next one does not hang.
async fn calls_that_hang_for_ever_cost_a_process_and_no_more(bench: &Bench, token: Arc<dyn Token>) {
    let fault = || vec![bench.arm(&["C_Encrypt", "C_Decrypt"], Fault::Hang)];
    let figures = ordeal("calls hang for ever", token, fault).await;
    figures.assert_sound();
    assert!(figures.failed_with("Timeout") > 0, "{figures}");
}

/// Ended by the module, once, several times, and all the time.
async fn a_module_that_crashes_ends_its_own_process_only(bench: &Bench, token: Arc<dyn Token>) {
    let crashes = [
        (Fault::Abort, &["C_Encrypt"][..], 1),
        (Fault::Segfault, &["C_Decrypt"], 5),
        (Fault::Segfault, &["any"], u32::MAX),
    ];
    for (fault, functions, calls) in crashes {
        let fault = || vec![bench.arm_for(functions, fault, calls)];
        ordeal("the module crashes", Arc::clone(&token), fault)
            .await
            .assert_sound();
    }
}

/// The trial takes some seconds, longer than the start of a worker may. It is made once: by a session that is refused
/// meanwhile, and not for the three sessions that a new key takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_at_the_end_of_a_network_is_tried_once_and_makes_keys() {
    let bench = Bench::new();
    let (call, start) = (Duration::from_secs(2), Duration::from_millis(1500));
    let token = bench.token_in_processes_within(call, start);
    let slow = bench.arm(&["any"], Fault::Slow(10));
    let wraps = bench.arm(&["C_WrapKey"], Fault::Slow(0));
    let begun = Instant::now();
    let refused = token.open_session().err();
    assert!(
        matches!(&refused, Some(HsmError::Unavailable { reason, .. }) if reason.contains("being tried")),
        "{refused:?}"
    );
    while let Err(refused) = token.open_session() {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "never opens: {refused:?}"
        );
    }
    let (opened, tried) = (begun.elapsed(), wraps.hits().expect("reads"));
    assert!(tried > 0, "a trial wraps keys");
    let settings = HsmSettings::default();
    let hsm = HsmHandle::start(token, settings).expect("starts");
    let asked = Instant::now();
    let key = fresh_key(&hsm).await;
    println!(
        "10 ms a call: the first session after {opened:?}, a key in {:?}",
        asked.elapsed()
    );
    let secret = SecretBytes::new(vec![7; 32]).expect("is short enough");
    hsm.wrap(&key, Vec::new(), secret).await.expect("wraps");
    hsm.info().await.expect("answers");
    assert_eq!(
        wraps.lift().expect("lifts"),
        tried,
        "the token is tried once"
    );
    assert!(slow.lift().expect("lifts") > 0);
    hsm.shutdown().await;
}

/// A crash in `C_Login` may have been a wrong try. The PIN is not tried at the pace of the workers' deaths.
async fn a_module_that_crashes_in_every_login_is_not_given_the_pin_at_will(
    bench: &Bench,
    token: Arc<dyn Token>,
) {
    const ILL: Duration = Duration::from_secs(3);
    let armed = bench.arm(&["C_Login"], Fault::Segfault);
    let begun = Instant::now();
    let mut asked = 0;
    while begun.elapsed() < ILL {
        let refused = token.open_session().err();
        assert!(
            refused.as_ref().is_some_and(HsmError::is_outage),
            "{refused:?}"
        );
        asked += 1;
        std::thread::sleep(Duration::from_millis(10));
    }
    let tries = armed.lift().expect("lifts");
    println!("crashes in C_Login: asked {asked} times, tried {tries}");
    // At 0, 0.1, 0.3, 0.7, 1.5 and 3.1 s: the last one is waited for.
    assert!(
        (2..=6).contains(&tries) && asked > 10,
        "{tries} tries for {asked}"
    );
    let lifted = Instant::now();
    while token.open_session().is_err() {
        assert!(lifted.elapsed() < Duration::from_secs(5), "does not heal");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// As a token that counts wrong tries and says so: none is wasted on a login whose outcome nobody knows.
async fn an_unclear_login_is_not_repeated_when_few_tries_are_left(
    bench: &Bench,
    token: Arc<dyn Token>,
) {
    let crash = bench.arm_for(&["C_Login"], Fault::Answer(sys::CKR_DEVICE_ERROR), 1);
    let logins = bench.arm(&["C_Login"], Fault::Slow(0));
    let low = bench.arm(
        &["C_GetTokenInfo"],
        Fault::TokenFlags(sys::CKF_USER_PIN_COUNT_LOW),
    );
    let unclear = token.open_session().err();
    assert!(
        matches!(
            unclear,
            Some(HsmError::Device {
                function: "C_Login",
                ..
            })
        ),
        "{unclear:?}"
    );
    assert_eq!(crash.lift().expect("lifts"), 1);
    assert_eq!(logins.hits().expect("reads"), 1, "tried once");
    std::thread::sleep(Duration::from_millis(300));
    for _ in 0..2 {
        let refused = token.open_session().err();
        assert!(
            matches!(refused, Some(HsmError::PinRejected(reason)) if reason.contains("unclear")),
            "{refused:?}"
        );
    }
    drop(low);
    let refused = token.open_session().err();
    assert!(
        matches!(refused, Some(HsmError::PinRejected(_))),
        "until its file changes: {refused:?}"
    );
    assert_eq!(logins.hits().expect("reads"), 1, "not tried again");
    let pin = std::fs::read(bench.pin_file()).expect("reads");
    std::fs::write(bench.pin_file(), "another").expect("writes");
    let refused = token.open_session().err();
    std::fs::write(bench.pin_file(), pin).expect("writes");
    assert!(
        matches!(refused, Some(HsmError::PinRejected("it is wrong"))),
        "{refused:?}"
    );
    token.open_session().expect("opens");
}

/// One try for each session that is opened, whatever the code; and the token that has thought better of it is taken.
async fn a_login_that_fails_for_no_known_reason_is_tried_once(
    bench: &Bench,
    token: Arc<dyn Token>,
) {
    let armed = bench.arm(&["C_Login"], Fault::Answer(sys::CKR_FUNCTION_FAILED));
    for tries in 1..=3 {
        let refused = token.open_session().err();
        assert!(
            matches!(refused, Some(HsmError::Device { .. })),
            "{refused:?}"
        );
        assert_eq!(armed.hits().expect("reads"), tries);
        // The pauses are of 100, 200 and 400 ms.
        std::thread::sleep(Duration::from_millis(450));
    }
    armed.lift().expect("lifts");
    token.open_session().expect("opens");
}

/// openCryptoki's clock, for instance, is one that not everybody can read. The flags are for everybody.
async fn no_pin_is_tried_when_the_next_wrong_one_would_lock_the_token(
    bench: &Bench,
    token: Arc<dyn Token>,
) {
    let logins = bench.arm(&["C_Login"], Fault::Slow(0));
    let flags = sys::CKF_CLOCK_ON_TOKEN | sys::CKF_USER_PIN_FINAL_TRY;
    let armed = bench.arm(&["C_GetTokenInfo"], Fault::TokenFlags(flags));
    for _ in 0..2 {
        let refused = token.open_session().err();
        assert!(
            matches!(refused, Some(HsmError::PinRejected(reason)) if reason.contains("lock")),
            "{refused:?}"
        );
    }
    assert!(armed.lift().expect("lifts") > 0);
    assert_eq!(logins.hits().expect("reads"), 0);
    token.open_session().expect("opens: it was not tried");
    assert_eq!(logins.lift().expect("lifts"), 1);
}

/// Who is logged out is shown no private object, with `CKR_OK`. A key that is there must not be taken for absent, and
/// above all not for destroyed.
#[test]
fn absence_is_not_believed_of_a_token_that_has_logged_us_out() {
    let bench = Bench::new();
    let token = bench.token();
    let id = fresh_id();
    let open = || token.open_session().expect("opens");
    open().generate_key(&id, "hidden").expect("generates");
    let mut session = open();
    let armed = bench.arm_for(&["C_GenerateRandom"], Fault::LogOut, 1);
    session.random(&mut [0; 8]).expect_err("is logged out");
    assert_eq!(armed.lift().expect("lifts"), 1);
    let outage = |error: Option<HsmError>| {
        let outage = error.as_ref().is_some_and(HsmError::is_outage);
        assert!(outage, "{error:?}");
    };
    outage(session.contains(&id).err());
    outage(session.list_keys().err());
    outage(session.destroy_key(&id).err());
    outage(session.generate_key(&id, "again").err());
    outage(session.make_canary(&id, &KeyBlob::EMPTY).err());
    assert!(open().contains(&id).expect("answers"));
    assert!(open().list_keys().expect("lists").contains(&id));
    open().destroy_key(&id).expect("destroys");
    assert!(!open().contains(&id).expect("answers"));
}

/// In this process a call that never returns keeps its worker for ever. No answer is wrong, and none is waited for:
/// the deadline ends the first calls, and the later ones are refused at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_hang_for_ever_in_this_process_are_refused_at_once() {
    let bench = Bench::new();
    let hsm = start(bench.token());
    let key = fresh_key(&hsm).await;
    let secret = || SecretBytes::new(vec![7; 32]).expect("is short enough");
    let wrapped = hsm.wrap(&key, Vec::new(), secret()).await.expect("wraps");
    let armed = bench.arm(&["C_Encrypt", "C_Decrypt"], Fault::Hang);
    let calls = (0..8).map(|_| {
        let (hsm, key, wrapped) = (hsm.clone(), key.clone(), wrapped.clone());
        tokio::spawn(async move { hsm.unwrap(&key, Vec::new(), wrapped).await.map(|_| ()) })
    });
    for call in calls.collect::<Vec<_>>() {
        let answer = call.await.expect("does not panic");
        assert!(matches!(answer, Err(HsmError::Timeout(_))), "{answer:?}");
    }
    // A worker counts as hung a deadline after it has taken the call, the caller's begins a little earlier.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(hsm.health().state, State::Hung, "{:?}", hsm.health());
    let struck = armed.lift().expect("lifts");
    assert_eq!(struck, 4, "one for each worker");
    let begun = Instant::now();
    for _ in 0..100 {
        let answer = hsm.wrap(&key, Vec::new(), secret()).await;
        assert!(
            matches!(answer, Err(HsmError::Unavailable { .. })),
            "{answer:?}"
        );
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(500), "{took:?}");
    println!("hung for ever: {struck} calls; the next 100 are refused in {took:?}");
    hsm.shutdown().await;
}

#[test]
fn a_token_that_makes_its_iv_over_zeros_keeps_the_contract() {
    let bench = Bench::new();
    let armed = bench.arm(&["C_EncryptInit"], Fault::ZeroIv);
    conformance::run_all(&bench.token_with_its_iv());
    assert!(armed.lift().expect("lifts") > 0);
}

/// Luna wants the length of what it unwraps; others refuse to be told. Plaintexts of all lengths, for a wrap tells its
/// own only to eight bytes.
#[test]
fn a_token_that_wants_the_length_of_what_it_unwraps_keeps_the_contract() {
    let bench = Bench::new();
    let armed = bench.arm(&["C_UnwrapKey"], Fault::UnwrapLength);
    let token = bench.token_with_key_wrap();
    conformance::run_all(&token);
    let mut session = token.open_session().expect("opens");
    let key = key_of(session.as_mut());
    for length in [0, 1, 7, 8, 9, 31, 32, 57, 63, 64] {
        let wrapped = session.wrap(&key, b"aad", &vec![7; length]);
        let back = session.unwrap(&key, b"aad", &wrapped.expect("wraps"));
        let back = back.unwrap_or_else(|error| panic!("{length} bytes: {error}"));
        assert_eq!(back.expose(), vec![7; length]);
    }
    assert!(armed.lift().expect("lifts") > 0);
}

/// The number by which a token wraps may change with its library: the canary tells.
#[test]
fn a_key_that_was_wrapped_by_the_other_number_of_key_wrap_is_found() {
    let bench = Bench::new();
    let armed = bench.arm(&["C_WrapKey", "C_UnwrapKey"], Fault::OtherKwp);
    let token = bench.token_with_key_wrap();
    let mut session = token.open_session().expect("opens");
    let key = key_of(session.as_mut());
    let wrapped = session.wrap(&key, b"aad", &[7; 32]).expect("wraps");
    assert!(armed.lift().expect("lifts") > 0);
    session.probe(&key).expect("its canary opens");
    let back = session.unwrap(&key, b"aad", &wrapped).expect("unwraps");
    assert_eq!(back.expose(), [7; 32]);
    let wrapped = session.wrap(&key, b"aad", &[8; 32]).expect("wraps");
    let mut other = token.open_session().expect("opens");
    let back = other.unwrap(&key, b"aad", &wrapped).expect("unwraps");
    assert_eq!(back.expose(), [8; 32]);
}

fn key_of(session: &mut dyn Session) -> BackingKey {
    let id = fresh_id();
    let blob = session.generate_key(&id, "dialect").expect("generates");
    let canary = session.make_canary(&id, &blob).expect("makes a canary");
    BackingKey { id, blob, canary }
}

/// A device with few sessions may keep those of a process that has gone without a word.
#[test]
fn a_worker_that_ends_leaves_no_session_at_the_token() {
    let bench = Bench::new();
    let token = bench.token_in_processes();
    let session = token.open_session().expect("opens");
    let closed = bench.arm(&["C_CloseSession"], Fault::Slow(0));
    let finalised = bench.arm(&["C_Finalize"], Fault::Slow(0));
    drop(session);
    assert_eq!(
        closed.lift().expect("lifts"),
        2,
        "the session and its anchor"
    );
    assert_eq!(finalised.lift().expect("lifts"), 1);
}

/// To sign is safe to repeat: a session that is lost, a module that fails or hangs once costs no call, and only a call
/// that never ends is the caller's to hear of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signature_is_made_again_where_the_module_failed() {
    let key = SigningKey::Ec(Curve::P256);
    let algorithm = SignatureAlgorithm::Ecdsa(HashFunction::Sha256);
    let digest = algorithm.hash().digest(b"message");
    let bench = Bench::new();
    let hsm = start(bench.token_in_processes());
    let made = hsm.generate_tool(fresh_id(), ToolSpec::Sign(key), "signs");
    let tool = made.await.expect("a pair");
    let once = [
        ("C_SignInit", Fault::Answer(sys::CKR_SESSION_HANDLE_INVALID)),
        ("C_SignInit", Fault::CloseSessions),
        ("C_SignInit", Fault::LogOut),
        ("C_Sign", Fault::Answer(sys::CKR_GENERAL_ERROR)),
        ("C_Sign", Fault::Answer(sys::CKR_DEVICE_REMOVED)),
        ("C_Sign", Fault::Segfault),
        ("C_Sign", Fault::Hang),
    ];
    for (function, fault) in once {
        let struck = bench.arm_for(&[function], fault, 1);
        let signed = hsm.sign(&tool, algorithm, digest.clone()).await;
        let signature = signed.unwrap_or_else(|error| panic!("{function} {fault:?}: {error}"));
        assert!(key.verifies(tool.proof.as_bytes(), algorithm, &digest, &signature));
        drop(struck);
    }
    let _struck = bench.arm(&["C_Sign"], Fault::Hang);
    let began = Instant::now();
    let late = hsm.sign(&tool, algorithm, digest.clone()).await;
    assert!(
        matches!(
            late,
            Err(HsmError::Timeout(_) | HsmError::Unavailable { .. })
        ),
        "{late:?}"
    );
    assert!(began.elapsed() < Duration::from_secs(10));
    hsm.shutdown().await;
}

#[test]
fn the_module_without_faults_keeps_the_contract() {
    conformance::run_all(&Bench::new().token());
}

/// The Luna dialect, tried by hand: the IV comes after the tag, and that IV decrypts.
#[test]
fn a_token_that_appends_its_iv_tells_it_after_the_tag() {
    let bench = Bench::new();
    let context = Pkcs11::new(Bench::module()).expect("loads");
    context
        .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
        .expect("initialises");
    let slot = context.get_slots_with_token().expect("lists");
    let labelled = |slot: &&cryptoki::slot::Slot| {
        let info = context.get_token_info(**slot);
        info.is_ok_and(|info| info.label() == LABEL)
    };
    let slot = *slot.iter().find(labelled).expect("the token");
    let session = context.open_rw_session(slot).expect("opens");
    session
        .login(UserType::User, Some(&AuthPin::new(PIN.into())))
        .expect("logs in");
    let template = [Attribute::ValueLen(32.into()), Attribute::Encrypt(true)];
    let key = session
        .generate_key(&Mechanism::AesKeyGen, &template)
        .expect("generates");
    let gcm = |iv: &mut [u8], data: &[u8], encrypt: bool| {
        let params = GcmParams::new(iv, b"aad", 128.into()).expect("parameters");
        let mechanism = Mechanism::AesGcm(params);
        if encrypt {
            session.encrypt(&mechanism, key, data)
        } else {
            session.decrypt(&mechanism, key, data)
        }
    };
    let armed = bench.arm(&["C_EncryptInit"], Fault::AppendIv(16));
    let out = gcm(&mut [], b"sixteen bytes it", true).expect("encrypts");
    assert_eq!(out.len(), 16 + 16 + 16);
    let (sealed, iv) = out.split_at(32);
    let back = gcm(&mut iv.to_vec(), sealed, false).expect("decrypts");
    assert_eq!(back, b"sixteen bytes it");
    assert!(armed.lift().expect("lifts") > 0);

    let absent = bench.arm(&["any"], Fault::NoMechanism(sys::CKM_AES_GCM));
    let listed = context.get_mechanism_list(slot).expect("lists");
    assert!(listed.len() > 10 && !listed.contains(&MechanismType::AES_GCM));
    let refused = gcm(&mut [1; 12], b"", true);
    assert!(
        matches!(refused, Err(Error::Pkcs11(RvError::MechanismInvalid, _))),
        "{refused:?}"
    );
    drop(absent);
    let listed = context.get_mechanism_list(slot).expect("lists");
    assert!(listed.contains(&MechanismType::AES_GCM));
}

/// Runs a program of its own on the module, `count` of them at once; returns how many succeeded.
fn processes(bench: &Bench, count: usize, environment: &[(&str, &str)]) -> usize {
    let children: Vec<_> = (0..count)
        .map(|_| {
            Command::new("pkcs11-tool")
                .arg("--module")
                .arg(Bench::module())
                .arg("--show-info")
                .env(CONTROL_VARIABLE, bench.control_file())
                .envs(environment.iter().copied())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("OpenSC must be installed")
        })
        .collect();
    children
        .into_iter()
        .map(|mut child| child.wait().expect("ends"))
        .filter(std::process::ExitStatus::success)
        .count()
}

#[test]
fn a_fault_for_three_calls_strikes_three_of_eight_processes() {
    let bench = Bench::new();
    let inner = [(INNER_VARIABLE, MODULE)];
    assert_eq!(processes(&bench, 2, &inner), 2);
    for fault in [
        Fault::Answer(sys::CKR_GENERAL_ERROR),
        Fault::Abort,
        Fault::Segfault,
    ] {
        let armed = bench.arm_for(&["C_GetInfo"], fault, 3);
        assert_eq!(processes(&bench, 8, &inner), 5, "{fault}");
        assert_eq!(armed.lift().expect("lifts"), 3, "{fault}");
    }
    assert_eq!(processes(&bench, 1, &[(INNER_VARIABLE, "/nonexistent")]), 0);
    assert_eq!(
        processes(&bench, 1, &[(CONTROL_VARIABLE, "/nonexistent")]),
        0
    );
}

#[test]
fn a_rule_that_means_nothing_is_not_armed() {
    let bench = Bench::new();
    for functions in [&["C_Nothing"][..], &[], &["C_Login", "any"]] {
        let refused = bench.control.arm(
            functions,
            Fault::Hang,
            strongroom_fault_module::Times::Only(1),
        );
        refused.expect_err("means nothing");
    }
    let id = fresh_id();
    let token = bench.token();
    let mut session = token.open_session().expect("opens");
    assert!(!session.contains(&id).expect("answers"));
}
