//! Tests of identities, over a token in memory and records on disk. Requests come as the wire has them.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretBox;
use strongroom_hsm::testing::fault::{Fault, FaultToken, Op};
use strongroom_hsm::testing::memory::MemoryToken;
use strongroom_hsm::{HsmGroup, HsmHandle, HsmSettings};

use super::{Account, Accounts, Iam, IamError, api};
use crate::auth::credentials::{Credentials, Holder};
use crate::auth::sigv4::{AuthError, Service};
use crate::auth::{AccountId, Principal, RequestContext};
use crate::clock::{Clock as _, ShiftedClock};
use crate::kms::{Kms, KmsSettings, WRAP_COUNT_BLOCK_DEFAULT, WRAPS_PER_BACKING_KEY_MAX_DEFAULT};
use crate::meta::{Batch, KeyRange, Meta, RedbMeta, Row, table};

mod audit;
mod entities;
mod integrity;
mod limits;
mod lookup;
mod sessions;

const HOME: &str = "123456789012";
const ABROAD: &str = "210987654321";

const ALLOW_ALL: &str =
    r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}"#;

fn account(digits: &str) -> AccountId {
    AccountId::parse(digits).expect("twelve digits")
}

/// Two accounts and all that they stand on.
struct Rig {
    iam: Iam,
    meta: Arc<dyn Meta>,
    faults: FaultToken,
    hsm: HsmHandle,
    clock: ShiftedClock,
    directory: tempfile::TempDir,
}

/// The root user of the home account.
fn root() -> Principal {
    Principal::root(account(HOME), "AKIAROOTHOME")
}

fn accounts() -> Accounts {
    let keys = |id: &str| {
        let secret = SecretBox::from("rootsecretrootsecret".to_owned());
        Credentials::new([(id.to_owned(), secret)]).expect("a good key")
    };
    Accounts::new([
        (Account::new(account(HOME), "home"), keys("AKIAROOTHOME")),
        (
            Account::new(account(ABROAD), "abroad"),
            keys("AKIAROOTABROAD"),
        ),
    ])
    .expect("different")
}

impl Rig {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let meta: Arc<dyn Meta> =
            Arc::new(RedbMeta::open(&directory.path().join("meta")).expect("a store"));
        let faults = FaultToken::new(Arc::new(MemoryToken::new()));
        let hsm = HsmSettings {
            workers: 2,
            queue: 256,
            deadline: Duration::from_secs(5),
            verify_wraps: true,
        };
        let hsm = HsmHandle::start(Arc::new(faults.clone()), hsm).expect("workers");
        let clock = ShiftedClock::default();
        Self {
            iam: iam(&meta, &hsm, &clock),
            meta,
            faults,
            hsm,
            clock,
            directory,
        }
    }

    /// Another process over the same records and token.
    fn restart(&mut self) {
        self.iam = iam(&self.meta, &self.hsm, &self.clock);
    }

    /// From now on no call reaches the token.
    fn unplug(&self) {
        for op in [
            Op::Open,
            Op::Wrap,
            Op::Unwrap,
            Op::Probe,
            Op::Contains,
            Op::Generate,
        ] {
            self.faults.always(op, Fault::Fail);
        }
    }

    fn plug_in(&self) {
        self.faults.heal();
    }

    /// One request of the caller: status and body.
    async fn ask_as(&self, caller: Principal, service: Service, form: &str) -> (u16, String) {
        let version = match service {
            Service::Sts => "2011-06-15",
            _ => "2010-05-08",
        };
        let mut context = RequestContext::new(caller, "request-1");
        context.secure_transport = true;
        context.time = self.clock.now();
        let form = format!("{form}&Version={version}");
        let response = api::handle(&self.iam, service, &context, form.as_bytes()).await;
        let status = response.status().as_u16();
        let body = String::from_utf8(response.into_body().to_vec()).expect("UTF-8");
        (status, body)
    }

    /// One request to IAM of the root user, which must succeed.
    async fn ok(&self, form: &str) -> String {
        let (status, body) = self.ask_as(root(), Service::Iam, form).await;
        assert_eq!(status, 200, "{form}: {body}");
        body
    }

    /// Code and message of a request to IAM that must fail.
    async fn fails(&self, form: &str) -> (String, String) {
        let (status, body) = self.ask_as(root(), Service::Iam, form).await;
        assert_ne!(status, 200, "{form}: {body}");
        (tag(&body, "Code"), tag(&body, "Message"))
    }

    /// Makes a user with an access key: id and secret.
    async fn user(&self, name: &str) -> String {
        self.ok(&format!("Action=CreateUser&UserName={name}")).await;
        self.access_key(name).await
    }

    async fn access_key(&self, user: &str) -> String {
        let body = self
            .ok(&format!("Action=CreateAccessKey&UserName={user}"))
            .await;
        tag(&body, "AccessKeyId")
    }

    async fn lookup(&self, access_key_id: &str) -> Result<Holder, IamError> {
        self.iam.lookup(access_key_id, None).await
    }

    /// The user that holds an access key.
    async fn principal(&self, access_key_id: &str) -> Principal {
        self.lookup(access_key_id).await.expect("known").principal
    }

    async fn rows(&self) -> Vec<Row> {
        let snapshot = self.meta.snapshot().await.expect("a snapshot");
        snapshot
            .scan(&KeyRange::prefix(&[table::IAM]), 1000)
            .await
            .expect("rows")
    }

    async fn put(&self, row: &[u8], value: &[u8]) {
        self.meta
            .commit(Batch::new().put(row, value))
            .await
            .expect("committed");
    }
}

fn iam(meta: &Arc<dyn Meta>, hsm: &HsmHandle, clock: &ShiftedClock) -> Iam {
    let kms = kms(meta, hsm, clock);
    Iam::new(Arc::new(kms), Arc::new(clock.clone()), accounts())
}

fn kms(meta: &Arc<dyn Meta>, hsm: &HsmHandle, clock: &ShiftedClock) -> Kms {
    let settings = KmsSettings {
        account: account(HOME),
        region: "us-west-2".to_owned(),
        wraps_per_backing_key_max: WRAPS_PER_BACKING_KEY_MAX_DEFAULT,
        wrap_count_block: WRAP_COUNT_BLOCK_DEFAULT,
        keys_per_account_max: crate::kms::KEYS_PER_ACCOUNT_MAX_DEFAULT,
    };
    let clock = Arc::new(clock.clone());
    Kms::new(
        Arc::clone(meta),
        HsmGroup::from(hsm.clone()),
        Arc::clone(&clock) as Arc<dyn crate::clock::Clock>,
        settings,
    )
}

/// The text of the first element of this name.
fn tag(xml: &str, name: &str) -> String {
    tags(xml, name)
        .into_iter()
        .next()
        .unwrap_or_else(|| panic!("no {name} in {xml}"))
}

/// The texts of all elements of this name.
fn tags(xml: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    xml.split(&open)
        .skip(1)
        .filter_map(|rest| rest.split_once(&close))
        .map(|(text, _)| text.to_owned())
        .collect()
}

/// A policy as a form has it.
fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[track_caller]
fn refused(result: Result<Holder, IamError>) -> AuthError {
    match result {
        Err(IamError::NotAuthenticated(error)) => error,
        other => panic!("{other:?}"),
    }
}
