//! Records that panic, for tests of what becomes of the call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use super::{Batch, Meta, MetaError, Snapshot};

/// Passes everything on, but for commits once it is told to panic.
#[derive(Debug)]
pub(crate) struct PanickingMeta {
    pub(crate) inner: Arc<dyn Meta>,
    pub(crate) panics: Arc<AtomicBool>,
}

#[async_trait]
impl Meta for PanickingMeta {
    async fn commit(&self, batch: Batch) -> Result<(), MetaError> {
        assert!(!self.panics.load(Ordering::SeqCst), "told to panic");
        self.inner.commit(batch).await
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, MetaError> {
        self.inner.snapshot().await
    }
}
