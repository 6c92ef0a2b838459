//! What the calendar decides, with an injected clock and a real token.

use std::sync::Arc;

use serde_json::{Value, json};
use strongroom::clock::ShiftedClock;
use strongroom::kms;
use strongroom::server::{Parts, Server};

use crate::support::{self, House, caller};

const DAY: i64 = 24 * 60 * 60;

/// Asks the KMS as its API's callers do: status and document.
async fn ask(parts: &Parts, operation: &str, body: Value) -> (http::StatusCode, String) {
    let target = format!("TrentService.{operation}");
    let answer =
        kms::api::handle(&parts.kms, &caller(), &target, body.to_string().as_bytes()).await;
    (
        answer.status(),
        String::from_utf8_lossy(answer.body()).into_owned(),
    )
}

async fn call(parts: &Parts, operation: &str, body: Value) -> Value {
    let (status, text) = ask(parts, operation, body).await;
    assert!(status.is_success(), "{operation}: {text}");
    serde_json::from_str(if text.is_empty() { "{}" } else { &text }).expect("JSON")
}

#[test]
fn when_the_window_ends_the_backing_keys_are_destroyed_in_the_token() {
    let Some(config) = support::config() else {
        return House::new()
            .run_again("clock::when_the_window_ends_the_backing_keys_are_destroyed_in_the_token");
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let clock = ShiftedClock::default();
        let server = Server::start(config, Arc::new(clock.clone()))
            .await
            .expect("starts");
        let parts = server.parts().clone();
        let made = call(&parts, "CreateKey", json!({})).await;
        let id = made["KeyMetadata"]["KeyId"].clone();
        call(&parts, "RotateKeyOnDemand", json!({ "KeyId": id })).await;
        let rotations = json!({ "KeyId": id, "IncludeKeyMaterial": "ALL_KEY_MATERIAL" });
        let rotations = call(&parts, "ListKeyRotations", rotations).await;
        let materials: Vec<_> = rotations["Rotations"]
            .as_array()
            .expect("rotations")
            .iter()
            .map(|rotation| rotation["KeyMaterialId"].as_str().expect("hex"))
            .map(|hex| strongroom_hsm::BackingKeyId::from_hex(hex).expect("64 digits"))
            .collect();
        assert_eq!(materials.len(), 2);
        call(
            &parts,
            "ScheduleKeyDeletion",
            json!({ "KeyId": id, "PendingWindowInDays": 7 }),
        )
        .await;

        clock.shift_to(7 * DAY - 60);
        assert_eq!(
            parts.kms.destroy_due_keys().await.expect("nothing is due"),
            0
        );
        for material in &materials {
            assert!(
                parts
                    .groups
                    .default_group()
                    .contains(*material)
                    .await
                    .expect("the token answers")
            );
        }

        clock.shift_to(7 * DAY + 1);
        assert_eq!(parts.kms.destroy_due_keys().await.expect("destroyed"), 1);
        for material in &materials {
            assert!(
                !parts
                    .groups
                    .default_group()
                    .contains(*material)
                    .await
                    .expect("the token answers")
            );
        }
        let (_, described) = ask(&parts, "DescribeKey", json!({ "KeyId": id })).await;
        assert!(described.contains("NotFoundException"), "{described}");
        parts.groups.shutdown().await;
    });
}
