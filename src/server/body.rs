//! A request's body that may not be silent for ever.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Limited};
use tokio::time::{Instant, Sleep};

/// Fails when no frame comes for a while. When it is dropped before its end, what is left goes back to the [`Rest`].
pub(super) struct TimedBody<B> {
    inner: Option<B>,
    limit: Duration,
    deadline: Pin<Box<Sleep>>,
    rest: Rest<B>,
}

/// What nobody has read of a body.
pub(super) struct Rest<B>(Arc<Mutex<Option<B>>>);

impl<B> Rest<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Reads what is left, if it is short and comes soon. A client that is still sending does not hear an answer before
    /// it is done, and the connection cannot be used again before.
    ///
    /// Returns whether the body has ended.
    pub(super) async fn drain(self, bytes_max: usize, wait: Duration) -> bool {
        let left = self.0.lock().ok().and_then(|mut rest| rest.take());
        let Some(body) = left else { return true };
        let all = Limited::new(body, bytes_max).collect();
        matches!(tokio::time::timeout(wait, all).await, Ok(Ok(_)))
    }
}

impl<B> TimedBody<B> {
    pub(super) fn new(inner: B, limit: Duration) -> (Self, Rest<B>) {
        let slot = Arc::new(Mutex::new(None));
        let deadline = Box::pin(tokio::time::sleep(limit));
        let body = Self {
            inner: Some(inner),
            limit,
            deadline,
            rest: Rest(Arc::clone(&slot)),
        };
        (body, Rest(slot))
    }
}

impl<B> Drop for TimedBody<B> {
    fn drop(&mut self) {
        if let Ok(mut rest) = self.rest.0.lock() {
            *rest = self.inner.take();
        }
    }
}

/// Caller: sent nothing for too long.
#[derive(Debug, thiserror::Error)]
#[error("no bytes of the body for {0:?}")]
struct Silent(Duration);

impl<B> Body for TimedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let Some(inner) = &mut this.inner else {
            return Poll::Ready(None);
        };
        match Pin::new(inner).poll_frame(cx) {
            Poll::Ready(frame) => {
                this.deadline.as_mut().reset(Instant::now() + this.limit);
                if frame.is_none() {
                    this.inner = None;
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => match this.deadline.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(Some(Err(Box::new(Silent(this.limit))))),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}
