//! The server's first account, written down once. Of its keys, aliases and buckets no account is recorded, so that another
//! `account` in the configuration would give them all to somebody else: nothing is done with such a configuration.

use std::sync::Arc;

use minicbor::{Decode, Encode};

use super::error::KmsError;
use super::mac::MetadataMac;
use super::table::Rows;
use super::{COMMIT_ATTEMPTS_MAX, Kms};
use crate::meta::table;

const OTHER: KmsError = KmsError::Damaged(
    "the configuration's account is not the first account that this store was begun with",
);

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct FirstAccountRecord {
    #[n(0)]
    account: String,
}

impl Kms {
    /// Checks that the store's first account is the configuration's, or writes it down where none is.
    ///
    /// # Errors
    ///
    /// [`KmsError::Damaged`] when it is another; by the records.
    pub(super) async fn check_first_account(&self, mac: &Arc<MetadataMac>) -> Result<(), KmsError> {
        let row = vec![table::KMS_FIRST_ACCOUNT];
        let configured = self.account().as_str();
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            let snapshot = self.meta.snapshot().await.map_err(KmsError::meta)?;
            let rows = Rows::new(Arc::clone(mac), snapshot, self.account().clone());
            let found = rows.load("first account", row.clone()).await?;
            match found.map(|found| found.record) {
                Some(FirstAccountRecord { account }) if account == configured => return Ok(()),
                Some(FirstAccountRecord { account }) => {
                    tracing::error!(
                        event = "kms.first_account.other",
                        recorded = account,
                        configured
                    );
                    return Err(OTHER);
                }
                None => {
                    let record = FirstAccountRecord {
                        account: configured.to_owned(),
                    };
                    if self.commit(rows.insert(row.clone(), &record)).await? {
                        return Ok(());
                    }
                }
            }
        }
        Err(KmsError::Busy)
    }

    /// Start-up: as far as the HSM is there, that this is the store of the configuration's account.
    pub(super) async fn verify_first_account(&self) -> Result<(), KmsError> {
        if self.mac_is_made().await? {
            self.mac().await?;
        }
        Ok(())
    }
}
