//! What policies are told of a key and of what is asked of it.

use super::access::{answer, user};
use super::import::{create, import, imported, parameters, plain};
use super::stores::Stores;
use super::{Rig, Value, json, request_of, account};
use crate::auth::RequestContext;

const DENIED: &str = "AccessDeniedException";

/// A user who may do everything under this condition.
fn if_only(condition: Value) -> RequestContext {
    let statement = json!({
        "Effect": "Allow", "Action": "kms:*", "Resource": "*", "Condition": condition,
    });
    let policy = json!({ "Version": "2012-10-17", "Statement": statement });
    user("anna", &[policy])
}

fn of_origin(origin: &str) -> RequestContext {
    if_only(json!({ "StringEquals": { "kms:KeyOrigin": origin } }))
}

#[tokio::test]
async fn the_origin_of_a_key_is_that_of_its_material_from_the_first_call_on() {
    let rig = Rig::new();
    let own = rig.api_ok("CreateKey", json!({})).await["KeyMetadata"].clone();
    let external = imported(&rig).await;
    for (origin, keys) in [("AWS_KMS", [&own, &external]), ("EXTERNAL", [&external, &own])] {
        let caller = of_origin(origin);
        let other = if origin == "EXTERNAL" { "AWS_KMS" } else { "EXTERNAL" };
        let make = |origin: &str| json!({ "Origin": origin });
        assert_eq!(answer(&rig, &caller, "CreateKey", make(origin)).await, "200");
        assert_eq!(answer(&rig, &caller, "CreateKey", make(other)).await, DENIED);
        let [its, others] = keys;
        assert_eq!(answer(&rig, &caller, "Encrypt", plain(its)).await, "200");
        assert_eq!(answer(&rig, &caller, "Encrypt", plain(others)).await, DENIED);
    }
    assert_eq!(answer(&rig, &of_origin("AWS_KMS"), "CreateKey", json!({})).await, "200");
}
