//! Futures of futures. Each holds its parts once: an `async fn` would hold its arguments twice, as it was given them and
//! where it pins them, and a connection's task is made of some thirty of these.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;

/// Which of two futures was first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Either<A, B> {
    /// The first one.
    Left(A),
    /// The second one.
    Right(B),
}

pin_project! {
    /// See [`race`].
    #[must_use = "futures do nothing unless polled"]
    pub struct Race<A, B> {
        #[pin]
        left: A,
        #[pin]
        right: B,
    }
}

/// Waits for the first of two; on a tie the left one. The other is dropped, so it must be one that may be.
pub fn race<A: Future, B: Future>(left: A, right: B) -> Race<A, B> {
    Race { left, right }
}

impl<A: Future, B: Future> Future for Race<A, B> {
    type Output = Either<A::Output, B::Output>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let parts = self.project();
        if let Poll::Ready(output) = parts.left.poll(context) {
            return Poll::Ready(Either::Left(output));
        }
        parts.right.poll(context).map(Either::Right)
    }
}

pin_project! {
    /// See [`join`].
    #[must_use = "futures do nothing unless polled"]
    pub struct Join<A: Future, B: Future> {
        #[pin]
        left: A,
        left_done: Option<A::Output>,
        #[pin]
        right: B,
        right_done: Option<B::Output>,
    }
}

/// Waits for both.
pub fn join<A: Future, B: Future>(left: A, right: B) -> Join<A, B> {
    Join { left, left_done: None, right, right_done: None }
}

impl<A: Future, B: Future> Future for Join<A, B> {
    type Output = (A::Output, B::Output);

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let parts = self.project();
        if parts.left_done.is_none()
            && let Poll::Ready(output) = parts.left.poll(context)
        {
            *parts.left_done = Some(output);
        }
        if parts.right_done.is_none()
            && let Poll::Ready(output) = parts.right.poll(context)
        {
            *parts.right_done = Some(output);
        }
        match (parts.left_done.take(), parts.right_done.take()) {
            (Some(left), Some(right)) => Poll::Ready((left, right)),
            (left, right) => {
                (*parts.left_done, *parts.right_done) = (left, right);
                Poll::Pending
            }
        }
    }
}

pin_project! {
    /// See [`timeout`].
    #[must_use = "futures do nothing unless polled"]
    pub struct Limited<F> {
        #[pin]
        inner: tokio::time::Timeout<F>,
    }
}

/// Waits for `future`, at most for `limit`; `None` when the time was up, and the future is dropped.
pub fn timeout<F: Future>(limit: Duration, future: F) -> Limited<F> {
    Limited { inner: tokio::time::timeout(limit, future) }
}

impl<F: Future> Future for Limited<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(ready!(self.project().inner.poll(context)).ok())
    }
}

pin_project! {
    /// See [`catch_panic`].
    #[must_use = "futures do nothing unless polled"]
    pub struct CatchPanic<F> {
        #[pin]
        inner: F,
    }
}

/// Waits for `future`; `Err` with the message when it panics. The future is dropped then, and nothing else ends.
pub fn catch_panic<F: Future>(future: F) -> CatchPanic<F> {
    CatchPanic { inner: future }
}

impl<F: Future> Future for CatchPanic<F> {
    type Output = Result<F::Output, String>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let inner = self.project().inner;
        match catch_unwind(AssertUnwindSafe(|| inner.poll(context))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(panic_message(&*panic))),
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a message".into())
}
