//! `CopyObject`: a new wrap of the same data key and a new manifest. Sealed bytes are shared, never rewritten.

use std::sync::Arc;

use futures::StreamExt;

use super::bucket_row::is_verified;
use super::digest::{Digested, Digests, SealedAttributes};
use super::get::Opened;
use super::put::{CHECKSUM_DEFAULT, ObjectRows, load_object, opaque_etag};
use super::record::{
    ChecksumAlgorithm, ChecksumKind, Headers, ObjectName, ObjectRecord, SseRecord,
};
use super::{
    KeyAccess, Located, SseTarget, Store, StoreError, WriteConditions, Written, object_of,
};
use crate::auth::Authorised;

/// A copy to be made.
#[derive(Debug)]
pub struct CopyRequest {
    /// What is copied.
    pub source: Located,
    /// How it is read.
    pub access: KeyAccess,
    /// The target.
    pub proof: Authorised,
    /// How the target is encrypted.
    pub sse: SseTarget,
    /// Headers of the target; the source's if `None`.
    pub headers: Option<Headers>,
    /// A checksum that the client wants; the source's if `None`.
    pub algorithm: Option<ChecksumAlgorithm>,
    /// Conditions on the target.
    pub conditions: WriteConditions,
}

impl Store {
    /// Copies an object. The target has a new `ETag` and date.
    ///
    /// Where the target needs a digest that is not stored (the MD5 of an SSE-S3 object, another checksum), the
    /// source is opened and hashed once.
    ///
    /// # Errors
    ///
    /// Those of reading the source and of writing the target; [`StoreError::NoSuchKey`] when the source was deleted
    /// meanwhile.
    pub async fn copy(&self, request: CopyRequest) -> Result<Written, StoreError> {
        let CopyRequest {
            source,
            access,
            proof,
            sse,
            headers,
            algorithm,
            conditions,
        } = request;
        if sse.record() != SseRecord::Customer {
            self.require_verified(is_verified(&proof)?).await?;
        }
        let bucket_record = self.load_bucket(&proof).await?;
        let (bucket, key) = object_of(&proof)?;
        let name = ObjectName::new(&bucket_record, key)?;
        let opened = self.unlock(&source, &access).await?;
        let key_record = self
            .wrap_key(&sse, &name, opened.schedule.data_key())
            .await?;

        let stored = source.record().checksum.filter(|kind| !kind.composite);
        let algorithm = algorithm
            .or(source.record().checksum.map(|kind| kind.algorithm))
            .unwrap_or(CHECKSUM_DEFAULT);
        let needs_md5 = sse.etag_is_md5();
        let needs_checksum = stored.is_none_or(|kind| kind.algorithm != algorithm);
        let digested = if needs_md5 || needs_checksum {
            Some(self.digest(&opened, algorithm, needs_md5).await?)
        } else {
            None
        };
        let checksum = match &digested {
            Some(digested) => digested.checksum.clone(),
            None => opened.attributes.checksum.clone(),
        };
        let etag = match digested.and_then(|digested| digested.md5) {
            Some(md5) if needs_md5 => hex::encode(md5),
            _ => opaque_etag()?,
        };
        let kind = ChecksumKind {
            algorithm,
            composite: false,
        };
        let record = ObjectRecord {
            etag,
            size: source.record().size,
            last_modified_ms: self.now_ms(),
            sse: sse.record(),
            body: source.record().body,
            parts: None,
            headers: headers.unwrap_or_else(|| source.record().headers.clone()),
            checksum: Some(kind),
            bucket_key: key_record.record.bucket_key(),
        };
        let attributes = SealedAttributes {
            checksum,
            claimed: None,
        };
        let rows = ObjectRows::seal(
            &opened.schedule,
            &name,
            record,
            opened.manifest.parts,
            key_record,
            &attributes,
        )?;
        self.commit_deciding(|| async {
            let snapshot = self.meta.snapshot().await?;
            let batch = self
                .object_batch(&*snapshot, bucket, &name, &rows, &conditions)
                .await?;
            // The source must still be of the body that was read, which is there with it; its key may have changed.
            let now = load_object(&*snapshot, source.name()).await?;
            let same = |now: &ObjectRecord| now.body == source.record().body;
            let Some((_, value)) = now.filter(|(now, _)| same(now)) else {
                return Err(StoreError::NoSuchKey(source.name().key.clone()));
            };
            if *source.name() == name {
                return Ok((batch, ()));
            }
            let replaced = load_object(&*snapshot, &name).await?;
            if replaced.is_some_and(|(old, _)| old.body == rows.record.body) {
                // The target already refers to this body.
                return Ok((
                    batch.unchanged(source.name().object_row(), Some(&value)),
                    (),
                ));
            }
            let retain = self.retain_body(&*snapshot, &rows.record.body).await?;
            Ok((
                batch
                    .unchanged(source.name().object_row(), Some(&value))
                    .and(retain),
                (),
            ))
        })
        .await?;
        Ok(rows.written(Some((kind, attributes.checksum))))
    }

    async fn digest(
        &self,
        opened: &Opened,
        algorithm: ChecksumAlgorithm,
        md5: bool,
    ) -> Result<Digested, StoreError> {
        let mut digests = Digests::new(algorithm, None, md5);
        let whole = 0..opened.manifest.plaintext_bytes();
        let mut body = self
            .stream(Arc::clone(&opened.schedule), &opened.manifest, whole)
            .await?;
        while let Some(frame) = body.next().await {
            digests.update(&frame?);
        }
        Ok(digests.finish())
    }
}
