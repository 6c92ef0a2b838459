//! openCryptoki's soft token speaks PKCS#11 v2.20: no authenticated cipher, no AES key wrap. CBC and HMAC it is.
//!
//! openCryptoki has one daemon, one configuration, one directory of tokens and one segment of shared memory for the
//! whole machine. Each test runs in mount and IPC namespaces of its own (root, or a user who may make some), where it
//! has these for itself: the test starts itself again inside.

mod interop;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use strongroom_hsm::pkcs11::Pkcs11Config;
use strongroom_hsm::testing::conformance;
use strongroom_hsm::{HashFunction, HsmError, KeyBlob, SigningKey, ToolSpec, WrapScheme};

const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/pkcs11/libopencryptoki.so";
const DAEMON: &str = "/usr/sbin/pkcsslotd";
const SOCKET: &str = "/run/pkcsslotd.socket";
/// The SO PIN of a new token.
const SO_PIN_AT_FIRST: &str = "87654321";
const SO_PIN: &str = "76543210";
const PIN_AT_FIRST: &str = "11111111";
/// As long as it may be, and not the one that every token has at first.
const PIN: &str = "strong-r";
/// How a test knows that it is inside.
const INSIDE: &str = "STRONGROOM_TEST_OPENCRYPTOKI";
const DAEMON_STARTS_WITHIN: Duration = Duration::from_secs(10);

/// What the machine has once, made anew in `$1`: one slot, no token yet.
const PRIVATE_STATE: &str = r#"
set -e
mount --make-rprivate /
mkdir "$1/etc" "$1/lib" "$1/run" "$1/shm"
printf 'version opencryptoki-3.1\nslot 3\n{\nstdll = libpkcs11_sw.so\n}\n' >"$1/etc/opencryptoki.conf"
mkdir -p "$1/lib/swtok/TOK_OBJ" "$1/run/lock/opencryptoki/swtok" "$1/run/log"
chgrp -R pkcs11 "$1/lib" "$1/run"
chmod -R 770 "$1/lib" "$1/run"
mount --bind "$1/etc" /etc/opencryptoki
mount --bind "$1/lib" /var/lib/opencryptoki
mount --bind "$1/run" /run
mount --bind "$1/shm" /dev/shm
shift
exec "$@"
"#;

/// The daemon, which ends with the test.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only for a process that has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `test`, which is the test function `name`, with a token of its own.
fn with_token(name: &str, test: impl FnOnce(&Pkcs11Config)) {
    let module = interop::installed(Path::new(LIBRARY));
    interop::installed(Path::new(DAEMON));
    #[expect(
        clippy::disallowed_methods,
        reason = "a test tells itself where it runs"
    )]
    let inside = std::env::var(INSIDE);
    let Ok(dir) = inside.map(PathBuf::from) else {
        let dir = tempfile::Builder::new()
            .prefix("opencryptoki-")
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .expect("a directory");
        let outcome = Command::new("unshare")
            .args(["--mount", "--ipc", "bash", "-c", PRIVATE_STATE, "bash"])
            .arg(dir.path())
            .arg(std::env::current_exe().expect("this program"))
            .args(["--exact", name, "--nocapture"])
            .env(INSIDE, dir.path())
            .output()
            .expect("unshare runs");
        let said = String::from_utf8_lossy(&outcome.stdout);
        println!("{said}");
        assert!(
            outcome.status.success() && said.contains("1 passed"),
            "inside its namespaces: {outcome:?}"
        );
        return;
    };
    let daemon = Command::new(DAEMON).arg("-f").stdout(Stdio::null()).spawn();
    let _daemon = Daemon(daemon.expect("the daemon starts"));
    let give_up = Instant::now() + DAEMON_STARTS_WITHIN;
    while !Path::new(SOCKET).exists() {
        assert!(Instant::now() < give_up, "the daemon has no socket");
        std::thread::sleep(Duration::from_millis(20));
    }
    for (arguments, input) in [
        (&["-I", "-S", SO_PIN_AT_FIRST][..], "main\n"),
        (&["-P", "-S", SO_PIN_AT_FIRST, "-n", SO_PIN], ""),
        (&["-u", "-S", SO_PIN, "-n", PIN_AT_FIRST], ""),
        (&["-p", "-U", PIN_AT_FIRST, "-n", PIN], ""),
    ] {
        pkcsconf(arguments, input);
    }
    let pin_file = dir.join("pin");
    std::fs::write(&pin_file, PIN).expect("writes");
    test(&interop::config(&module, "main", &pin_file));
}

fn pkcsconf(arguments: &[&str], input: &str) {
    use std::io::Write as _;
    let mut command = Command::new("pkcsconf");
    let command = command.args(["-c", "3"]).args(arguments);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("pkcsconf runs");
    let mut stdin = child.stdin.take().expect("its input");
    stdin.write_all(input.as_bytes()).expect("writes");
    drop(stdin);
    let outcome = child.wait_with_output().expect("it ends");
    // Its status is 0 whatever happened.
    let said = [outcome.stdout.as_slice(), &outcome.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(
        outcome.status.success() && !said.contains("Error"),
        "{arguments:?}: {said}"
    );
}

#[test]
fn opencryptoki_keeps_the_contract() {
    with_token("opencryptoki_keeps_the_contract", |config| {
        let token = interop::token(config.clone());
        conformance::run_all(&token);
        interop::unwraps(&token, &[]);
        // The soft token of this version has no curves.
        let has = |key: &SigningKey| matches!(key, SigningKey::Rsa(_));
        let signers: Vec<_> = interop::EVERY_SIGNER.into_iter().filter(has).collect();
        interop::signs(&token, &signers);
        let has = |hash| interop::obstacle(&token, ToolSpec::Hmac(hash));
        for hash in [
            HashFunction::Sha256,
            HashFunction::Sha384,
            HashFunction::Sha512,
        ] {
            assert_eq!(has(hash), None, "{hash:?}");
        }
        let reason = has(HashFunction::Sha224).expect("is not among its mechanisms");
        assert!(reason.contains("CKR_MECHANISM_INVALID"), "{reason}");
    });
}

#[test]
fn opencryptoki_gets_cbc_and_hmac_for_want_of_better() {
    with_token(
        "opencryptoki_gets_cbc_and_hmac_for_want_of_better",
        |config| {
            interop::chooses(&interop::token(config.clone()), WrapScheme::AesCbcHmac);
        },
    );
}

#[test]
fn many_workers_wrap_at_once() {
    with_token("many_workers_wrap_at_once", |config| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build();
        let token = interop::token(config.clone());
        runtime
            .expect("a runtime")
            .block_on(interop::many_workers_wrap_at_once(token));
    });
}

#[test]
fn a_scheme_that_the_token_has_not_fails_when_its_key_is_made() {
    with_token(
        "a_scheme_that_the_token_has_not_fails_when_its_key_is_made",
        |config| {
            let mut session = interop::open(&interop::forced(config, WrapScheme::AesGcm));
            let id = interop::fresh_id();
            session.generate_key(&id, "gcm").expect("is any AES key");
            let refused = session.make_canary(&id, &KeyBlob::EMPTY);
            assert!(
                matches!(refused, Err(HsmError::Device { .. })),
                "{refused:?}"
            );
        },
    );
}

#[test]
fn the_report_says_what_is_missing() {
    with_token("the_report_says_what_is_missing", |config| {
        let report = interop::report_with_keys(config, &[WrapScheme::AesCbcHmac]);
        assert_eq!(
            interop::fact(&report, "mechanism", "CKM_AES_GCM"),
            "not listed"
        );
        assert_eq!(
            interop::fact(&report, "scheme", "of new keys"),
            "aes-cbc-hmac"
        );
        assert_eq!(report.dangers, Vec::<String>::new());
    });
}
