//! Tasks of one thread, time, and waking: the little that the relay needs of a runtime.

mod combine;

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::sync::OnceLock;
use std::task::Poll;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal as Number};
use tokio::sync::{Notify, mpsc};

pub use combine::{Apart, CatchPanic, Either, Join, Limited, Race, Rouser, apart, catch_panic, join, race, timeout};

/// Runs `future`, and the tasks that it spawns, on this thread with epoll.
///
/// # Errors
/// The reactor could not be made.
pub fn run_on_reactor<F: Future>(future: F) -> io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // The set polls its own future whenever any task runs.
    let output = tokio::task::LocalSet::new().block_on(&runtime, apart(future));
    // The system's resolver cannot be told to stop, and nobody waits for it.
    runtime.shutdown_background();
    Ok(output)
}

/// Runs `future`, and the tasks that it spawns, on this thread and on a clock of its own: when every task waits for a time,
/// the clock jumps to the nearest one. There is no reactor: nothing here can touch a socket.
///
/// # Errors
/// The runtime could not be made.
#[cfg(feature = "simulation")]
pub fn run_on_virtual_time<F: Future>(future: F) -> io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    Ok(tokio::task::LocalSet::new().block_on(&runtime, future))
}

/// Runs a test in a thread of its own: a future that nobody wakes would not end, and a limit inside its runtime would not
/// either.
#[cfg(test)]
pub(crate) fn tested(test: impl FnOnce() + Send + 'static) {
    let (done, ended) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        test();
        done.send(())
    });
    match ended.recv_timeout(Duration::from_secs(30)) {
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("nobody was woken"),
        _ => drop(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))),
    }
}

/// Starts a task on this thread.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    drop(tokio::task::spawn_local(task));
}

/// The time; under [`run_on_virtual_time`] that of the simulation.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Lets the other tasks of this thread run.
pub async fn yield_now() {
    tokio::task::yield_now().await;
}

/// Has this task polled once more, sooner than the reactor looks: for a few times only, or others are kept waiting.
pub fn poll_again() -> impl Future<Output = ()> {
    let mut was_polled = false;
    poll_fn(move |context| {
        if std::mem::replace(&mut was_polled, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
}

/// Waits for a time.
pub async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// Wakes one waiting task; remembers one wake-up for a task that comes later.
#[derive(Debug, Default)]
pub struct Signal(Notify);

impl Signal {
    /// Wakes the waiter, or the next one.
    pub fn set(&self) {
        self.0.notify_one();
    }

    /// Waits until it is set. May be dropped.
    pub async fn wait(&self) {
        self.0.notified().await;
    }
}

/// Set once, seen by everybody who waits or comes later.
#[derive(Debug, Default)]
pub struct Broadcast {
    set: Cell<bool>,
    waiting: Notify,
}

impl Broadcast {
    /// Sets it.
    pub fn set(&self) {
        self.set.set(true);
        self.waiting.notify_waiters();
    }

    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        self.set.get()
    }

    /// Waits until it is set. May be dropped.
    pub async fn wait(&self) {
        while !self.set.get() {
            self.waiting.notified().await;
        }
    }
}

/// A value that is set once, by any thread, and waited for by any number of tasks in any.
#[derive(Debug)]
pub struct Latch<T> {
    value: OnceLock<T>,
    waiting: Notify,
}

impl<T> Default for Latch<T> {
    fn default() -> Self {
        Self { value: OnceLock::new(), waiting: Notify::new() }
    }
}

impl<T> Latch<T> {
    /// Sets it, unless it is set already.
    pub fn set(&self, value: T) {
        if self.value.set(value).is_ok() {
            self.waiting.notify_waiters();
        }
    }

    /// Its value, if it is set.
    pub fn get(&self) -> Option<&T> {
        self.value.get()
    }

    /// Waits until it is set. May be dropped.
    pub async fn wait(&self) -> &T {
        loop {
            // Who sets it after this look wakes this future, though it has not been polled yet.
            let notified = self.waiting.notified();
            if let Some(value) = self.value.get() {
                return value;
            }
            notified.await;
        }
    }
}

/// The sending end of a bounded queue between threads.
#[derive(Debug)]
pub struct Sender<T>(mpsc::Sender<T>);

/// The receiving end of a bounded queue between threads.
#[derive(Debug)]
pub struct Receiver<T>(mpsc::Receiver<T>);

/// A queue that holds at most `most` things.
pub fn queue<T>(most: usize) -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = mpsc::channel(most.max(1));
    (Sender(sender), Receiver(receiver))
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Sender<T> {
    /// Whether nobody receives any more.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Puts a thing into the queue; gives it back when the queue is full or nobody receives any more.
    pub fn try_send(&self, thing: T) -> Result<(), T> {
        self.0.try_send(thing).map_err(|error| match error {
            mpsc::error::TrySendError::Full(thing) | mpsc::error::TrySendError::Closed(thing) => thing,
        })
    }
}

impl<T> Receiver<T> {
    /// The next thing; `None` when every sender is gone.
    pub async fn next(&mut self) -> Option<T> {
        self.0.recv().await
    }
}

/// What a signal asks a process for that goes on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Request {
    /// SIGHUP: to read its files again.
    Reload,
    /// SIGUSR1: to open its log anew.
    Reopen,
    /// SIGUSR2: to say what it has.
    List,
}

/// Such a signal, each time.
#[derive(Debug)]
pub struct Requests(tokio::signal::unix::Signal);

/// Takes a signal over: from now on it ends the process no more.
///
/// # Errors
/// The handler could not be installed.
pub fn requests(request: Request) -> io::Result<Requests> {
    use tokio::signal::unix::{SignalKind, signal};
    Ok(Requests(signal(match request {
        Request::Reload => SignalKind::hangup(),
        Request::Reopen => SignalKind::user_defined1(),
        Request::List => SignalKind::user_defined2(),
    })?))
}

impl Requests {
    /// Waits for the next one, or for the first of several.
    pub async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

/// What ends a process, as a rule.
fn ends() -> SigSet {
    [Number::SIGTERM, Number::SIGINT, Number::SIGQUIT].into_iter().collect()
}

/// Has SIGTERM, SIGINT and SIGQUIT wait until [`stop_signals`] is ready for them: there is something to be tidied away by now.
///
/// # Errors
/// What sigprocmask says.
pub fn hold_stop_signals() -> io::Result<()> {
    Ok(ends().thread_block()?)
}

/// SIGTERM, SIGINT and SIGQUIT, each time.
#[derive(Debug)]
pub struct StopSignals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    quit: tokio::signal::unix::Signal,
}

/// Takes these signals over.
///
/// # Errors
/// The handlers could not be installed.
pub fn stop_signals() -> io::Result<StopSignals> {
    use tokio::signal::unix::{SignalKind, signal};
    let terminate = signal(SignalKind::terminate())?;
    let (interrupt, quit) = (signal(SignalKind::interrupt())?, signal(SignalKind::quit())?);
    // Of all threads this one gets them: the others began with what holds here.
    ends().thread_unblock()?;
    Ok(StopSignals { terminate, interrupt, quit })
}

impl StopSignals {
    /// Waits for the next one and returns its name. May be dropped.
    pub async fn next(&mut self) -> &'static str {
        match race(self.terminate.recv(), race(self.interrupt.recv(), self.quit.recv())).await {
            Either::Left(_) => "SIGTERM",
            Either::Right(Either::Left(_)) => "SIGINT",
            Either::Right(Either::Right(_)) => "SIGQUIT",
        }
    }
}
