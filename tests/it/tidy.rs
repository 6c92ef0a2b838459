//! Keeps the house: which module may name what. An invariant that is an absence is tested here.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(dir: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![root().join(dir)];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "{dir}");
    found
}

/// Lines of code that contain `word`: not comments, and not unit tests at the end of a file.
fn naming(dir: &str, word: &str) -> Vec<String> {
    let mut found = Vec::new();
    for path in sources(dir) {
        let name = path
            .strip_prefix(root())
            .expect("inside")
            .display()
            .to_string();
        if name.ends_with("tests.rs") || name.contains("/tests/") || name.contains("conformance") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("UTF-8");
        let code = text
            .split("#[cfg(test)]\nmod tests {")
            .next()
            .unwrap_or_default();
        for (number, line) in code.lines().enumerate() {
            let line = line.split("//").next().unwrap_or_default();
            if line.contains(word) {
                found.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    found
}

fn nobody_in(dir: &str, words: &[&str]) {
    for word in words {
        let found = naming(dir, word);
        assert!(
            found.is_empty(),
            "{dir} names {word}:\n{}",
            found.join("\n")
        );
    }
}

/// Only these folders name it.
fn only(word: &str, allowed: &[&str]) {
    for dir in ["src", "hsm/src"] {
        let strangers: Vec<_> = naming(dir, word)
            .into_iter()
            .filter(|line| !allowed.iter().any(|allowed| line.starts_with(allowed)))
            .collect();
        assert!(strangers.is_empty(), "{word}:\n{}", strangers.join("\n"));
    }
}

#[test]
fn the_search_itself_finds_what_is_there() {
    assert!(!naming("src/s3", "s3s::").is_empty());
    assert!(!naming("hsm/src/pkcs11", "cryptoki").is_empty());
}

#[test]
fn front_ends_only_translate() {
    nobody_in(
        "src/s3",
        &[
            "strongroom_hsm",
            "crate::meta",
            "crate::blob",
            "crate::envelope",
            "kms::api",
            "crate::iam",
        ],
    );
    nobody_in(
        "src/kms/api",
        &[
            "strongroom_hsm",
            "crate::meta",
            "crate::blob",
            "crate::store",
            "crate::s3",
            "crate::iam",
        ],
    );
    nobody_in(
        "src/iam/api",
        &[
            "strongroom_hsm",
            "crate::meta",
            "crate::blob",
            "crate::store",
            "crate::s3",
            "kms::api",
        ],
    );
}

#[test]
fn auth_does_not_know_where_access_keys_are_kept() {
    nobody_in(
        "src/auth",
        &["crate::iam", "crate::kms", "crate::store", "crate::meta"],
    );
    nobody_in(
        "src/iam",
        &["crate::s3", "crate::store", "crate::blob", "crate::server"],
    );
}

#[test]
fn kms_does_not_know_s3_and_hsm_does_not_know_kms() {
    nobody_in(
        "src/kms",
        &[
            "crate::s3",
            "crate::store",
            "crate::blob",
            "crate::envelope",
            "crate::server",
            "crate::iam",
        ],
    );
    nobody_in("hsm/src", &["kms::", "Kms"]);
}

#[test]
fn envelope_is_without_io() {
    nobody_in(
        "src/envelope",
        &[
            "async ",
            ".await",
            "std::fs",
            "std::io",
            "tokio",
            "crate::kms",
            "crate::meta",
        ],
    );
    for line in naming("src/envelope", "strongroom_hsm") {
        assert!(line.contains("strongroom_hsm::DataKey"), "{line}");
    }
}

#[test]
fn blob_and_meta_see_no_plaintext_and_no_key() {
    for dir in ["src/blob", "src/meta"] {
        nobody_in(
            dir,
            &[
                "DataKey",
                "strongroom_hsm",
                "crate::envelope",
                "crate::kms",
                "crate::store",
            ],
        );
    }
}

#[test]
fn the_audit_knows_no_keys_and_no_hsm() {
    nobody_in(
        "src/audit",
        &[
            "crate::kms",
            "crate::meta",
            "crate::store",
            "crate::s3",
            "crate::server",
            "strongroom_hsm",
        ],
    );
}

#[test]
fn the_store_knows_no_wire() {
    nobody_in(
        "src/store",
        &["s3s", "axum", "hyper", "crate::s3", "crate::server"],
    );
}

#[test]
fn each_foreign_library_has_one_door() {
    only("cryptoki", &["hsm/src/pkcs11/"]);
    only("tss_esapi", &["hsm/src/tpm/"]);
    only("s3s::", &["src/s3/", "src/server/endpoint.rs"]);
    only("axum", &["src/server/"]);
    only("redb::", &["src/meta/"]);
    only("fs::rename(", &["src/blob/"]);
}

#[test]
fn only_the_configuration_reads_the_environment() {
    only("std::env::var", &["src/config/environment.rs"]);
}

#[test]
fn unsafe_code_is_in_the_files_that_call_foreign_code() {
    // With the space before it: `allow_unsafe {` is none.
    only(
        " unsafe {",
        &[
            "hsm/src/pkcs11/raw/",
            "hsm/src/process/confine.rs",
            "hsm/src/tpm/esys/",
            "hsm/src/tpm/esys.rs",
        ],
    );
}

#[test]
fn no_two_tables_have_one_prefix() {
    let text = std::fs::read_to_string(root().join("src/meta/table.rs")).expect("the tables");
    let mut prefixes: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("pub const ")?.split_once(" = b"))
        .map(|(_, prefix)| prefix.to_owned())
        .collect();
    let tables = prefixes.len();
    assert!(tables > 20, "{tables} tables");
    prefixes.sort_unstable();
    prefixes.dedup();
    assert_eq!(prefixes.len(), tables);
}

#[test]
fn the_top_level_is_fixed() {
    let allowed = [
        ".ci",
        ".git",
        ".gitignore",
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "README.md",
        "ci",
        "hsm",
        "softhsm-config",
        "src",
        "target",
        "tests",
    ];
    for entry in fs::read_dir(root()).expect("the top level") {
        let name = entry
            .expect("an entry")
            .file_name()
            .into_string()
            .expect("UTF-8");
        assert!(
            allowed.contains(&name.as_str()),
            "{name} is new at the top level"
        );
    }
}
