//! Tests by the AWS CLI and boto3. `every_python_test_is_run` keeps the list whole.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Files that hold no tests.
const HELPERS: [&str; 3] = ["support", "tokens", "fault_module"];

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
                walk_cli step_7_when_the_window_ends_the_backing_keys_are_gone_from_the_token;
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

/// Signatures, on the other tokens that have them.
mod signatures {
    use super::run_on;

    #[test]
    fn on_kryoptic_keys_that_sign_live_in_the_token_and_the_world_verifies() {
        run_on("kryoptic", FILE, LIVES);
    }

    #[test]
    fn on_opencryptoki_keys_that_sign_live_in_the_token_and_the_world_verifies() {
        run_on("opencryptoki", FILE, LIVES);
    }

    #[test]
    fn on_kryoptic_a_signing_key_is_managed_like_any_key_by_the_aws_cli() {
        run_on("kryoptic", FILE, MANAGED);
    }

    const FILE: &str = "key_types";
    const LIVES: &str = "keys_that_sign_live_in_the_token_and_the_world_verifies";
    const MANAGED: &str = "a_signing_key_is_managed_like_any_key_by_the_aws_cli";
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
        step_7_when_the_window_ends_the_backing_keys_are_gone_from_the_token
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
    data_key_pairs {
        a_pair_of_every_spec_decrypts_to_what_was_given_in_clear
        what_gets_no_pair_is_told_why
        policies_and_grants_name_the_pair
    }
    backup {
        a_copy_of_a_stopped_server_reads_again
    }
    crash {
        what_was_acknowledged_survives_kill_9_and_nothing_else_shows
        a_killed_multipart_upload_goes_on
    }
    outage {
        without_its_token_the_server_starts_lists_and_heads_and_heals
        a_token_that_goes_and_comes_back_is_noticed_without_a_restart
    }
    bucket_keys {
        the_bucket_decides_unless_the_request_does
        the_configuration_of_a_bucket_is_given_back
        a_copy_has_what_its_target_says
        an_upload_says_so_in_every_answer
        what_does_not_go_together_is_refused
        a_key_that_is_disabled_or_dying_is_of_no_use_at_once
        after_a_restart_and_a_rotation_everything_reads
        in_an_outage_a_bucket_key_serves_until_its_time_is_over
        a_load_takes_a_hundredth_of_the_calls_of_the_token
    }
    tpm {
        a_key_bound_to_pcrs_opens_in_the_same_boot_or_by_the_recovery_key
        hsm_check_describes_a_tpm
        a_tpm_makes_no_keys_that_sign_and_says_so
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
        keys_that_sign_live_in_the_token_and_the_world_verifies
        a_signing_key_is_managed_like_any_key_by_the_aws_cli
        what_a_signature_may_be_asked_for_is_policys_to_say
        in_an_outage_signatures_are_verified_and_none_are_made
        material_is_brought_along_used_deleted_and_brought_again
        several_materials_of_one_key_are_rotated_to_and_listed_and_all_must_be_there
        an_import_that_is_killed_leaves_nothing_in_the_token
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
    rewrap {
        update_object_encryption_changes_the_key_and_nothing_else
        update_object_encryption_has_its_errors
        bucket_keys_go_with_what_hangs_on_them
        policies_decide_who_changes_keys
        key_usage_follows_every_write
        a_key_in_use_goes_with_a_warning_or_not_at_all
        a_rewrap_moves_what_it_is_told_to_and_says_what_is_left
        a_rewrap_may_what_whoever_began_it_may_by_now
        a_rewrap_waits_for_its_token
        writers_do_not_notice_a_rewrap
        a_rewrap_survives_kill_9_and_leaves_nothing_behind
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
    audit {
        every_use_of_a_key_is_recorded_and_found
        what_is_denied_and_what_a_rewrap_does_is_recorded
        changes_of_identities_and_buckets_are_recorded_and_who_did_what_as_whom_is_found
        refused_signatures_are_counted_and_recorded_within_bounds
        checkpoints_are_proven_by_the_token_and_tampering_is_found_where_it_is
        a_missing_file_is_found
        a_killed_server_leaves_a_chain_that_goes_on
        without_its_audit_no_key_is_used_and_it_heals
        without_its_audit_key_use_goes_on_if_the_configuration_says_so
        an_orderly_stop_waits_for_calls_whose_clients_have_gone
        records_go_on_without_the_token_and_are_attested_later
        an_auditor_sees_every_key_and_what_the_token_says_of_it
        an_auditor_needs_no_more_than_the_ready_policy
        the_last_use_of_a_key_and_what_hangs_on_it_are_told_everywhere
    }
    accounts {
        every_account_has_its_own_keys_aliases_and_default_key
        a_key_of_another_account_takes_both_policies_and_its_arn
        objects_go_across_accounts_under_a_key_of_either
        signatures_and_key_pairs_take_both_policies_too
        a_rewrap_takes_objects_to_a_key_of_another_account
        a_buckets_policy_is_its_accounts_alone
        keys_that_were_there_before_read_on_and_the_auditor_sees_all
    }
    access {
        the_table_is_what_its_generator_writes
        a_key_is_open_to_whom_its_policy_and_grants_let_in_and_to_nobody_else
        an_object_is_open_to_whom_its_bucket_and_its_key_let_in_and_to_nobody_else
        a_key_of_a_further_account_is_as_open_as_one_of_the_first
        an_object_of_a_further_account_is_as_open_as_one_of_the_first
        each_account_has_its_own_buckets_and_is_named_as_their_owner
    }
    encryption_clients {
        the_aws_encryption_sdk_does_its_main_job
        the_s3_encryption_client_does_its_main_job
    }
    iam {
        users_by_boto3
        access_keys_by_boto3
        groups_by_boto3
        inline_and_attached_policies_by_boto3
        managed_policies_by_boto3
        roles_by_boto3
        everything_by_the_aws_cli
        a_users_key_signs_for_every_service_and_its_end_is_at_once
        a_session_signs_for_every_service_and_dies_with_its_role
        the_ready_policies_keep_duties_apart
        policies_are_enforced_as_of_now
        a_name_that_is_used_again_is_somebody_else
        secrets_are_nowhere_on_the_disk
        without_the_hsm_after_a_restart_users_wait_and_root_works
        rows_that_were_tampered_with_are_refused
        several_accounts_on_one_server
    }
    program {
        init_serve_and_key_commands_work
        an_ephemeral_server_prints_exports_and_cleans_up
        an_ephemeral_server_takes_settings_of_the_environment_and_exports_none
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
        .filter(|name| !HELPERS.contains(&name.as_str()))
        .collect();
    assert_eq!(
        files,
        LISTED.iter().map(|(file, _)| (*file).to_owned()).collect()
    );
}
