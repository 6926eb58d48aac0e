//! Futures of futures. Each holds its parts once: an `async fn` would hold its arguments twice, as it was given them and
//! where it pins them, and a connection's task is made of some thirty of these.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};
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
    /// See [`apart`].
    #[must_use = "futures do nothing unless polled"]
    pub struct Apart<F> {
        #[pin]
        inner: F,
        own: Arc<OwnWaker>,
        waker: Waker,
        // Whose waker `own` passes a wake-up on to.
        whole: Option<Waker>,
    }
}

/// Polls `future` only when it has been woken itself, or was roused: a part of a task that does much beside it. So a message on
/// one socket does not have every part look whether it is concerned.
pub fn apart<F: Future>(future: F) -> Apart<F> {
    let own = Arc::new(OwnWaker { is_woken: AtomicBool::new(true), whole: Mutex::default() });
    Apart { inner: future, waker: Waker::from(Arc::clone(&own)), own, whole: None }
}

impl<F> Apart<F> {
    /// What has it polled although nobody has woken it.
    pub fn rouser(&self) -> Rouser {
        Rouser(Arc::clone(&self.own))
    }
}

/// See [`Apart::rouser`].
#[derive(Debug)]
pub struct Rouser(Arc<OwnWaker>);

impl Rouser {
    /// Has the part polled when its task is polled next. Wakes nobody.
    pub fn rouse(&self) {
        self.0.is_woken.store(true, Ordering::Release);
    }
}

#[derive(Debug)]
struct OwnWaker {
    is_woken: AtomicBool,
    whole: Mutex<Option<Waker>>,
}

impl Wake for OwnWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_woken.store(true, Ordering::Release);
        // Also when it was woken before: a rouser wakes nobody.
        if let Some(whole) = &*self.whole.lock().unwrap_or_else(PoisonError::into_inner) {
            whole.wake_by_ref();
        }
    }
}

impl<F: Future> Future for Apart<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let parts = self.project();
        if !parts.whole.as_ref().is_some_and(|whole| whole.will_wake(context.waker())) {
            *parts.whole = Some(context.waker().clone());
            parts.own.whole.lock().unwrap_or_else(PoisonError::into_inner).clone_from(parts.whole);
        }
        // Before it is polled: what wakes it meanwhile counts for the next time.
        if !parts.own.is_woken.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        parts.inner.poll(&mut Context::from_waker(parts.waker))
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::pin::pin;

    use super::*;
    use crate::rt::{self, Signal};

    #[test]
    fn a_part_is_polled_when_it_was_woken_itself_or_roused_and_not_with_the_others() {
        rt::tested(|| rt::run_on_reactor(only_for_itself()).unwrap());
    }

    async fn only_for_itself() {
        let (signal, polls) = (Signal::default(), Cell::new(0));
        let counted = |polls_then: u32| assert_eq!(polls.get(), polls_then);
        let waits = apart(async {
            let mut wait = pin!(signal.wait());
            poll_fn(|context| {
                polls.set(polls.get() + 1);
                wait.as_mut().poll(context)
            })
            .await;
        });
        let rouser = waits.rouser();
        let others = async {
            counted(1);
            for _ in 0..5 {
                rt::yield_now().await;
                counted(1);
            }
            rouser.rouse();
            counted(1);
            rt::yield_now().await;
            counted(2);
            rt::yield_now().await;
            counted(2);
            signal.set();
        };
        join(waits, others).await;
        counted(3);
    }

    #[test]
    fn a_part_that_goes_to_another_task_wakes_that_one() {
        rt::tested(|| rt::run_on_reactor(the_task_that_has_it()).unwrap());
    }

    async fn the_task_that_has_it() {
        let signal = Signal::default();
        let mut waits = pin!(apart(signal.wait()));
        let nobody = Waker::noop();
        assert!(waits.as_mut().poll(&mut Context::from_waker(nobody)).is_pending());
        let both = join(waits, async {
            rt::yield_now().await;
            signal.set();
        });
        assert!(rt::timeout(Duration::from_secs(20), both).await.is_some(), "it has woken the task it was in before");
    }
}
