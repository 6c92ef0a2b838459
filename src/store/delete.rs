//! `DeleteObject`.

use super::put::{load_object, load_sealed};
use super::record::ObjectName;
use super::usage::index_object;
use super::{Store, StoreError, object_of};
use crate::auth::Authorised;
use crate::meta::Batch;

impl Store {
    /// Deletes an object. One that is not there is deleted already. No HSM.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchBucket`]; [`StoreError::PreconditionFailed`] when `if_match` names another `ETag`.
    pub async fn delete(
        &self,
        proof: &Authorised,
        if_match: Option<&str>,
    ) -> Result<(), StoreError> {
        let (_, key) = object_of(proof)?;
        self.commit_deciding(|| async {
            let snapshot = self.meta.snapshot().await?;
            let name = ObjectName::new(&self.proven_bucket(&*snapshot, proof).await?.record, key)?;
            let Some((record, value)) = load_object(&*snapshot, &name).await? else {
                return Ok((Batch::new(), ()));
            };
            if if_match.is_some_and(|etag| etag != "*" && etag != record.etag) {
                return Err(StoreError::PreconditionFailed("If-Match"));
            }
            let sealed = load_sealed(&*snapshot, &name).await?;
            let batch = Batch::new()
                .unchanged(name.object_row(), Some(&value))
                .delete(name.object_row())
                .and(sealed.unchanged(&name))
                .delete(name.manifest_row())
                .and(index_object(&name, sealed.key(), None))
                .and(self.release_body(&*snapshot, &record.body).await?)
                .and(self.release_object(&*snapshot, &name, &record).await?);
            Ok((batch, ()))
        })
        .await
    }
}
