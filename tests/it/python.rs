//! Tests by the AWS CLI and boto3. `every_python_test_is_run` keeps the list whole.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/python")
}

fn python(file: &str) -> Command {
    let mut command = Command::new("python3");
    command
        .arg(dir().join(file).with_extension("py"))
        .env("STRONGROOM_PROGRAM", env!("CARGO_BIN_EXE_strongroom"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// Runs a test with the token that `tests/it/python/tokens.py` knows by this name.
fn run_on(token: &str, file: &str, test: &str) {
    let output = python(file)
        .arg(test)
        .env("STRONGROOM_TEST_TOKEN", token)
        .output()
        .expect("python3 and boto3: run ci/setup");
    assert!(
        output.status.success(),
        "{file}.py {test} on {token}\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

macro_rules! python_tests {
    ($($file:ident { $($test:ident)* })*) => {
        $(mod $file {
            $(#[test]
            fn $test() {
                super::run_on("softhsm", stringify!($file), stringify!($test));
            })*
        })*
        const LISTED: &[(&str, &[&str])] = &[$((stringify!($file), &[$(stringify!($test)),*])),*];
    };
}

/// The walk on other tokens: what `ci/matrix` runs.
macro_rules! the_walk {
    ($($on:ident: $token:literal;)*) => {
        $(mod $on {
            tests_on! { $token =>
                walk_cli step_1_and_2_buckets_and_their_encryption;
                walk_cli step_3_and_4_the_default_key_is_made_on_first_use;
                walk_cli step_5_customer_managed_keys_by_every_name;
                walk_cli step_6_rotation_makes_one_more_key_in_the_token;
                walk_cli step_7_disabled_and_pending_deletion;
                walk_cli step_8_a_gibibyte_up_and_down_in_little_memory;
                walk_boto3 step_8_multipart_and_ranges_across_borders;
                disk nothing_on_disk_is_plaintext_or_a_data_key;
                disk one_changed_bit_anywhere_in_a_blob_is_found;
                disk a_blob_that_is_cut_extended_or_swapped_is_found;
                crash what_was_acknowledged_survives_kill_9_and_nothing_else_shows;
                outage without_its_token_the_server_starts_lists_and_heads_and_heals;
            }
        })*
    };
}

macro_rules! tests_on {
    ($token:literal => $($file:ident $test:ident;)*) => {
        $(#[test]
        fn $test() {
            super::run_on($token, stringify!($file), stringify!($test));
        })*
    };
}

the_walk! {
    on_kryoptic: "kryoptic";
    on_opencryptoki: "opencryptoki";
    on_swtpm: "swtpm";
}

/// Who has a token of kryoptic or openCryptoki open keeps it, whatever becomes of its file or daemon: these cannot be
/// taken away.
#[test]
fn on_swtpm_a_tpm_that_goes_and_comes_back_is_noticed_without_a_restart() {
    run_on(
        "swtpm",
        "outage",
        "a_token_that_goes_and_comes_back_is_noticed_without_a_restart",
    );
}

python_tests! {
    walk_cli {
        step_1_and_2_buckets_and_their_encryption
        step_3_and_4_the_default_key_is_made_on_first_use
        step_5_customer_managed_keys_by_every_name
        step_6_rotation_makes_one_more_key_in_the_token
        step_7_disabled_and_pending_deletion
        step_8_a_gibibyte_up_and_down_in_little_memory
    }
    walk_boto3 {
        step_1_and_2_buckets_and_their_encryption
        step_3_and_4_the_default_key_is_made_on_first_use
        step_5_customer_managed_keys_by_every_name
        step_6_rotation_makes_one_more_key_in_the_token
        step_7_disabled_and_pending_deletion
        step_8_multipart_and_ranges_across_borders
    }
    disk {
        nothing_on_disk_is_plaintext_or_a_data_key
        one_changed_bit_anywhere_in_a_blob_is_found
        a_blob_that_is_cut_extended_or_swapped_is_found
        metadata_of_an_earlier_state_opens_nothing_wrongly
        damage_behind_the_first_segments_breaks_the_connection
    }
    crash {
        what_was_acknowledged_survives_kill_9_and_nothing_else_shows
        a_killed_multipart_upload_goes_on
    }
    outage {
        without_its_token_the_server_starts_lists_and_heads_and_heals
        a_token_that_goes_and_comes_back_is_noticed_without_a_restart
    }
    tpm {
        a_key_bound_to_pcrs_opens_in_the_same_boot_or_by_the_recovery_key
        hsm_check_describes_a_tpm
    }
    key_stores {
        a_key_lives_in_its_custom_key_store_by_the_aws_cli
        a_key_moves_between_tokens_and_old_objects_read
        an_outage_of_one_token_is_none_of_the_other
        a_group_of_cloned_tokens_outlives_each_of_them
    }
    key_types {
        mac_keys_live_in_the_token_and_verify_what_they_made
        a_mac_outlives_a_restart_and_its_key_serves_no_object
        material_is_brought_along_used_deleted_and_brought_again
        only_what_the_token_passed_live_is_on_offer_for_an_import
    }
    faults {
        a_token_that_is_lost_costs_no_object_and_heals
        a_token_that_logs_out_costs_no_object_and_heals
        a_token_that_fails_costs_no_object_and_heals
        a_token_that_answers_wrongly_gives_no_wrong_object
        a_token_that_is_slow_or_hangs_costs_no_object_and_heals
        a_module_that_crashes_or_hangs_for_ever_costs_its_process_and_no_object
    }
    wire {
        a_presigned_put_with_an_unsigned_copy_source_is_refused
        an_unsigned_kms_key_header_is_refused
        an_anonymous_form_of_a_gibibyte_takes_no_memory
        a_gibibyte_in_one_chunk_takes_no_memory
        a_presigned_url_for_30_days_is_refused
        a_wrong_trailer_is_refused
        a_wrong_decoded_length_is_refused
        every_error_has_a_request_id
        anonymous_sigv2_and_foreign_requests_are_refused
        signed_chunks_are_verified
        presigned_urls_work
        customer_keys_are_not_logged_even_at_debug
        a_part_or_a_path_in_disguise_is_not_an_object
        a_client_that_dawdles_is_dropped
    }
    s3 {
        objects_keep_their_headers_and_metadata
        conditions_and_ranges
        conditional_writes
        lists_with_prefix_delimiter_and_pages
        strange_keys_come_back
        copies_share_the_sealed_bytes
        copies_between_kinds_of_encryption
        customer_keys
        checksums_of_every_algorithm
        multipart_rules
        multipart_checksums
        part_copies
        deletes_free_the_bytes
        a_range_of_another_object_is_not_served
        many_copies_of_one_object_come_and_go_at_once
        what_is_not_implemented_says_so
        bad_requests_have_their_codes
        encryption_headers_have_their_codes
    }
    program {
        init_serve_and_key_commands_work
        an_ephemeral_server_prints_exports_and_cleans_up
        configuration_errors_name_the_key
        hsm_check_says_what_the_token_can_do
        health_is_answered_from_cached_state
    }
}

#[test]
fn every_python_test_is_run() {
    for (file, listed) in LISTED {
        let output = python(file)
            .output()
            .expect("python3 and boto3: run ci/setup");
        let text = String::from_utf8(output.stdout).expect("names");
        let there: BTreeSet<&str> = text.lines().collect();
        let listed: BTreeSet<&str> = listed.iter().copied().collect();
        assert_eq!(there, listed, "{file}.py");
    }
    let files: BTreeSet<String> = std::fs::read_dir(dir())
        .expect("the folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "py"))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .filter(|name| name != "support" && name != "tokens")
        .collect();
    assert_eq!(
        files,
        LISTED.iter().map(|(file, _)| (*file).to_owned()).collect()
    );
}
