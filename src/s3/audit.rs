//! The records of calls that change buckets and who may use them. What is done with objects is recorded with the keys that
//! it uses.

use s3s::dto::{
    CreateBucketInput, DeleteBucketEncryptionInput, DeleteBucketInput, DeleteBucketPolicyInput,
    PutBucketEncryptionInput, PutBucketPolicyInput,
};
use s3s::{S3Error, S3Request, S3Result};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::{Front, context, error};
use crate::audit::{
    BUCKET_TYPE, CHARS_MAX, Event, MESSAGE_CHARS_MAX, NAME_CHARS_MAX, POLICY_CHARS_MAX, S3_SOURCE,
    Who, cut,
};
use crate::auth::{AccountId, Origin, Principal};
use crate::kms::Kms;

/// What a call is about.
pub(super) trait Managing {
    /// Its name, as `CloudTrail` has it.
    const NAME: &'static str;

    /// The bucket.
    fn bucket(&self) -> &str;

    /// What else of it is recorded.
    fn parameters(&self) -> Map<String, Value> {
        Map::new()
    }
}

impl Managing for CreateBucketInput {
    const NAME: &'static str = "CreateBucket";

    fn bucket(&self) -> &str {
        &self.bucket
    }

    fn parameters(&self) -> Map<String, Value> {
        let configuration = self.create_bucket_configuration.as_ref();
        let region = configuration.and_then(|found| found.location_constraint.as_ref());
        let told = region.map(|region| {
            let region = cut(region.as_str(), NAME_CHARS_MAX);
            let value = json!({ "LocationConstraint": region });
            ("CreateBucketConfiguration".to_owned(), value)
        });
        told.into_iter().collect()
    }
}

impl Managing for DeleteBucketInput {
    const NAME: &'static str = "DeleteBucket";

    fn bucket(&self) -> &str {
        &self.bucket
    }
}

impl Managing for PutBucketPolicyInput {
    const NAME: &'static str = "PutBucketPolicy";

    fn bucket(&self) -> &str {
        &self.bucket
    }

    fn parameters(&self) -> Map<String, Value> {
        // What does not read as JSON is recorded as it came.
        let policy = serde_json::from_str(&self.policy)
            .ok()
            .filter(|_| self.policy.len() <= POLICY_CHARS_MAX);
        let policy = policy.unwrap_or_else(|| cut(&self.policy, CHARS_MAX).into());
        Map::from_iter([("bucketPolicy".to_owned(), policy)])
    }
}

impl Managing for DeleteBucketPolicyInput {
    const NAME: &'static str = "DeleteBucketPolicy";

    fn bucket(&self) -> &str {
        &self.bucket
    }
}

impl Managing for PutBucketEncryptionInput {
    const NAME: &'static str = "PutBucketEncryption";

    fn bucket(&self) -> &str {
        &self.bucket
    }

    fn parameters(&self) -> Map<String, Value> {
        let rules = self.server_side_encryption_configuration.rules.iter();
        let rules: Vec<_> = rules
            .take(1)
            .map(|rule| {
                let by_default = rule.apply_server_side_encryption_by_default.as_ref();
                let by_default = by_default.map(|by_default| {
                    let algorithm = cut(by_default.sse_algorithm.as_str(), NAME_CHARS_MAX);
                    match &by_default.kms_master_key_id {
                        Some(key) => {
                            json!({ "SSEAlgorithm": algorithm, "KMSMasterKeyID": cut(key, CHARS_MAX) })
                        }
                        None => json!({ "SSEAlgorithm": algorithm }),
                    }
                });
                json!({
                    "ApplyServerSideEncryptionByDefault": by_default,
                    "BucketKeyEnabled": rule.bucket_key_enabled,
                })
            })
            .collect();
        let configuration = json!({ "Rule": rules });
        Map::from_iter([(
            "ServerSideEncryptionConfiguration".to_owned(),
            configuration,
        )])
    }
}

impl Managing for DeleteBucketEncryptionInput {
    const NAME: &'static str = "DeleteBucketEncryption";

    fn bucket(&self) -> &str {
        &self.bucket
    }
}

/// A call that is recorded when it has ended.
pub(super) struct Call {
    name: &'static str,
    bucket: String,
    parameters: Map<String, Value>,
    principal: Principal,
    origin: Origin,
    time: OffsetDateTime,
    /// Who owns the bucket, if it is there; else who calls.
    account: AccountId,
}

impl Call {
    /// Begins, if it can be recorded.
    ///
    /// # Errors
    ///
    /// When it cannot, and when it is not known whose the bucket is.
    pub(super) async fn begin<I: Managing>(
        front: &Front,
        request: &S3Request<I>,
    ) -> S3Result<Self> {
        front.kms.check_audit().map_err(error::kms)?;
        let caller = context(request)?;
        let bucket = request.input.bucket().to_owned();
        let access = front.store.bucket_access(&bucket).await?;
        let owner = access.map(|access| access.owner.clone());
        Ok(Self {
            name: I::NAME,
            parameters: request.input.parameters(),
            principal: caller.principal.clone(),
            origin: Origin::of(caller),
            time: caller.time,
            account: owner.unwrap_or_else(|| caller.principal.account.clone()),
            bucket,
        })
    }

    /// Records how it went.
    ///
    /// # Errors
    ///
    /// When it cannot be recorded.
    pub(super) async fn end(self, kms: &Kms, failed: Option<&S3Error>) -> S3Result<()> {
        let mut request = self.parameters;
        request.insert("bucketName".to_owned(), json!(cut(&self.bucket, CHARS_MAX)));
        let outcome = failed.map(|error| {
            let message = error.message().unwrap_or_default();
            let code = error.code().as_str().to_owned();
            (code, cut(message, MESSAGE_CHARS_MAX))
        });
        let event = Event {
            source: S3_SOURCE,
            name: self.name,
            time: self.time,
            who: Who::Caller(&self.principal, &self.origin),
            account: self.account.as_str(),
            region: kms.region(),
            read_only: false,
            request,
            response: Map::new(),
            additional: Map::new(),
            resource_type: BUCKET_TYPE,
            resources: vec![format!("arn:aws:s3:::{}", cut(&self.bucket, CHARS_MAX))],
            outcome,
        };
        kms.record(event).await.map_err(error::kms)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use serde_json::Map;
    use strongroom_hsm::testing::memory::MemoryToken;
    use strongroom_hsm::{HsmGroup, HsmHandle, HsmSettings};

    use super::Call;
    use crate::audit::query::{Filter, query};
    use crate::audit::{Audit, AuditSettings, Durability, OnFailure, ServerId};
    use crate::auth::{AccountId, Origin, Principal, RequestContext};
    use crate::clock::ShiftedClock;
    use crate::kms::{
        Kms, KmsSettings, WRAP_COUNT_BLOCK_DEFAULT, WRAPS_PER_BACKING_KEY_MAX_DEFAULT,
    };
    use crate::meta::RedbMeta;
    use crate::s3::recorded;

    #[tokio::test]
    async fn a_call_that_panics_is_recorded() {
        let directory = tempfile::tempdir().expect("a directory");
        let settings = AuditSettings {
            dir: directory.path().join("audit"),
            durability: Durability::Interval(Duration::from_millis(10)),
            on_failure: OnFailure::Refuse,
            file_bytes_max: 1 << 20,
            checkpoint_records: 1000,
            checkpoint_interval: Duration::from_mins(1),
        };
        let dir = settings.dir.clone();
        let clock = Arc::new(ShiftedClock::default());
        let audit = Audit::open(ServerId::random(), None, settings, clock.clone());
        let hsm = HsmSettings {
            workers: 1,
            queue: 8,
            deadline: Duration::from_secs(5),
            verify_wraps: true,
        };
        let hsm = HsmHandle::start(Arc::new(MemoryToken::new()), hsm).expect("workers");
        let meta = RedbMeta::open(&directory.path().join("meta")).expect("a store");
        let account = AccountId::parse("123456789012").expect("an account");
        let settings = KmsSettings {
            account: account.clone(),
            region: "us-west-2".to_owned(),
            wraps_per_backing_key_max: WRAPS_PER_BACKING_KEY_MAX_DEFAULT,
            wrap_count_block: WRAP_COUNT_BLOCK_DEFAULT,
            keys_per_account_max: crate::kms::KEYS_PER_ACCOUNT_MAX_DEFAULT,
        };
        let kms = Kms::new(Arc::new(meta), HsmGroup::from(hsm), clock, settings)
            .with_audit(Arc::new(audit.expect("an audit")));
        let caller = RequestContext::new(Principal::root(account.clone(), "AKIATEST"), "request-1");
        let call = Call {
            name: "PutBucketPolicy",
            bucket: "vault".to_owned(),
            parameters: Map::new(),
            principal: caller.principal.clone(),
            origin: Origin::of(&caller),
            time: caller.time,
            account,
        };
        let answered: s3s::S3Result<()> =
            recorded(&kms, call, async { panic!("in the operation") }).await;
        assert_eq!(answered.expect_err("told").code().as_str(), "InternalError");
        let mut events = Vec::new();
        query(&dir, &Filter::default(), |_, event| {
            events.push(event.clone());
            Ok(true)
        })
        .expect("readable");
        assert_eq!(events.len(), 1);
        assert_eq!(events[0]["eventName"], "PutBucketPolicy");
        assert_eq!(events[0]["errorCode"], "InternalError");
        assert_eq!(events[0]["resources"][0]["ARN"], "arn:aws:s3:::vault");
    }
}
