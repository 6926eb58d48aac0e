//! The simulated driver: the relay's streams and connections on the network in memory.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use sealane_io::net::{ConnectOptions, FirstLook};
use sealane_io::{Buffer, Control, Driver, Link, Patience, Received, SocketOptions, Stream, Unheard, rt};

use crate::network::{End, is_would_block};
use crate::stats::Fault;

/// How often a waiting peer is looked at; as the real drivers have it.
const GONE_INTERVAL: Duration = Duration::from_millis(250);

/// How often, of a thousand, something is said to be readable that is not.
const SPURIOUS: usize = 50;

/// How often, of a thousand, a direction that has received is to let others have their turn before it receives again.
const PAUSES: usize = 50;

/// Behind the bytes of a receive the kernel leaves the buffer alone; whoever reads on finds this.
const JUNK_BYTES: usize = 48;

impl Control for End {
    fn shutdown_read(&self) {
        Self::shutdown_read(self);
    }

    fn shutdown_write(&self) {
        Self::shutdown_write(self);
    }

    fn abort(&self) {
        Self::abort(self);
    }

    fn try_send(&self, bytes: &[u8]) -> io::Result<usize> {
        Self::try_send_all(self, bytes)
    }

    fn peek(&self, bytes: &mut [u8]) -> io::Result<usize> {
        let there = Self::peek(self, bytes.len()).inspect_err(|error| self.has_said(error))?;
        bytes.iter_mut().zip(&there).for_each(|(to, from)| *to = *from);
        Ok(there.len())
    }

    fn send_room(&self) -> usize {
        self.room() / 4 * 3
    }

    fn is_acknowledged(&self) -> bool {
        Self::is_acknowledged(self)
    }

    fn unheard(&self) -> Option<Unheard> {
        Self::unheard(self)
    }

    fn user_timeout(&self) -> Option<Duration> {
        Self::user_timeout(self)
    }

    fn set_user_timeout(&self, timeout: Option<Duration>) {
        Self::set_user_timeout(self, timeout);
    }

    fn is_gone(&self) -> bool {
        self.is_reset()
    }
}

/// The simulation's clock has no shorter time.
const TICK: Duration = Duration::from_millis(1);

/// Ends when it is polled for the second time, which it does not ask for.
fn polled_again() -> impl Future<Output = ()> {
    let mut was_polled = false;
    poll_fn(move |_| if std::mem::replace(&mut was_polled, true) { Poll::Ready(()) } else { Poll::Pending })
}

/// A stream of the relay.
pub(crate) struct SimStream {
    end: End,
    is_eager: Cell<bool>,
    is_look_due: Cell<bool>,
}

impl Stream for SimStream {
    type Socket = End;

    fn adopt(socket: End) -> io::Result<Self> {
        socket.begins_to_ask();
        Ok(Self { end: socket, is_eager: Cell::new(false), is_look_due: Cell::new(false) })
    }

    fn socket(&self) -> &End {
        &self.end
    }

    fn set_eager(&self, is_eager: bool) {
        if is_eager {
            self.end.network().count(Fault::Spinning);
        }
        self.is_eager.set(is_eager);
    }

    /// Time goes on only while everybody waits for it.
    async fn look(&self) {
        if self.is_look_due.take() {
            self.end.network().count(Fault::Pause);
        }
        rt::sleep(TICK).await;
    }

    fn is_look_due(&self) -> bool {
        self.is_look_due.get()
    }

    async fn readable(&self) -> io::Result<()> {
        let wait = |end: &End| match Self::peek_one(end) {
            Err(error) if is_would_block(&error) => None,
            _ => Some(Ok(())),
        };
        if self.end.network().chance(SPURIOUS) {
            self.end.network().count(Fault::SpuriousReadiness);
            return Ok(());
        }
        let readable = self.end.until(wait).await;
        self.end.tell_late().await;
        readable
    }

    async fn receive(&self, mut buffer: Buffer, patience: Patience) -> (io::Result<Received>, Buffer) {
        assert!(!self.is_look_due.get(), "a receive, though it was time to let others have their turn");
        let end = self.end.clone();
        let most = buffer.slices_bytes();
        let first = end.try_receive(most);
        let received = match (first, patience) {
            (Err(error), Patience::Hold) if is_would_block(&error) => self.hold(most).await,
            (Err(error), Patience::None) if is_would_block(&error) => None,
            (done, _) => Some(done),
        };
        let outcome = match received {
            None => Ok(Received::Nothing),
            Some(Ok(bytes)) if bytes.is_empty() => Ok(Received::End),
            Some(Ok(bytes)) => {
                scatter(&mut buffer, &bytes);
                self.is_look_due.set(end.network().chance(PAUSES));
                Ok(Received::Bytes(bytes.len()))
            }
            Some(Err(error)) => Err(error),
        };
        end.complete().await;
        end.has_heard();
        if matches!(outcome, Ok(Received::End)) {
            end.has_ended();
        }
        (outcome, buffer)
    }

    async fn send(&self, mut buffer: Buffer) -> (io::Result<()>, Buffer) {
        let end = self.end.clone();
        end.begins_to_send();
        let mut outcome = Ok(());
        while buffer.slices_bytes() > 0 && outcome.is_ok() {
            let Some(range) = buffer.ranges().next() else { break };
            let bytes = buffer.bytes().get(range).unwrap_or_default();
            let sent = end.until(|end| match end.try_send(bytes) {
                Err(error) if is_would_block(&error) => None,
                done => Some(done),
            });
            match sent.await {
                Ok(count) => buffer.consume(count),
                Err(error) => outcome = Err(error),
            }
        }
        end.complete().await;
        end.ends_to_send();
        (outcome, buffer)
    }
}

impl SimStream {
    /// Receives within the patience. Who is polled all the time is not told of anything, as with the real drivers.
    async fn hold(&self, most: usize) -> Option<io::Result<Vec<u8>>> {
        let patience = Duration::from_millis(Patience::HOLD_MS);
        let until = rt::now() + patience;
        loop {
            if self.is_eager.get() {
                match self.end.try_receive(most) {
                    Err(error) if is_would_block(&error) && rt::now() < until => polled_again().await,
                    Err(error) if is_would_block(&error) => return None,
                    done => return Some(done),
                }
                continue;
            }
            let mut wait = pin!(rt::timeout(patience, self.end.receive(most)));
            let told = poll_fn(|context| match self.is_eager.get() {
                true => Poll::Ready(None),
                false => wait.as_mut().poll(context).map(Some),
            });
            if let Some(received) = told.await {
                return received;
            }
        }
    }

    fn peek_one(end: &End) -> io::Result<Vec<u8>> {
        End::peek(end, 1)
    }
}

fn scatter(buffer: &mut Buffer, bytes: &[u8]) {
    let ranges: Vec<_> = buffer.ranges().collect();
    let mut rest = bytes;
    for range in ranges {
        let place = buffer.bytes_mut().get_mut(range).unwrap_or_default();
        let (now, later) = rest.split_at(place.len().min(rest.len()));
        let (filled, behind) = place.split_at_mut(now.len());
        filled.copy_from_slice(now);
        behind.iter_mut().take(JUNK_BYTES).for_each(|byte| *byte = 0xdb);
        rest = later;
    }
}

/// A connection of the relay before it is a stream.
pub(crate) struct SimLink {
    pub(crate) end: End,
}

impl Link for SimLink {
    type Socket = End;

    async fn first_look(&self, limit: Option<Duration>) -> FirstLook {
        let look = self.end.until(|end| match End::peek(end, 1) {
            Err(error) if is_would_block(&error) => None,
            Ok(bytes) if !bytes.is_empty() => Some(FirstLook::Bytes),
            _ => Some(FirstLook::Gone),
        });
        match limit {
            Some(limit) => rt::timeout(limit, look).await.unwrap_or(FirstLook::Silent),
            None => look.await,
        }
    }

    fn has_bytes(&self) -> bool {
        End::peek(&self.end, 1).is_ok_and(|bytes| !bytes.is_empty())
    }

    async fn gone(&self, has_spoken: bool) {
        loop {
            rt::sleep(GONE_INTERVAL).await;
            match End::peek(&self.end, 1) {
                _ if self.end.is_reset() => return,
                Ok(bytes) if !bytes.is_empty() || has_spoken => {}
                Err(error) if is_would_block(&error) => {}
                _ => return,
            }
        }
    }

    async fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let there = self.end.receive(bytes.len()).await?;
        bytes.iter_mut().zip(&there).for_each(|(to, from)| *to = *from);
        Ok(there.len())
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.end.send(bytes).await
    }

    fn local_address(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::from(([127, 0, 0, 1], 20049)))
    }

    fn set_options(&self, _options: &SocketOptions) -> io::Result<()> {
        Ok(())
    }

    fn into_socket(self) -> io::Result<End> {
        Ok(self.end)
    }
}

/// Who answers when the relay looks up a name or connects.
pub(crate) trait Upstream {
    fn resolve(&self) -> io::Result<Vec<SocketAddr>>;
    /// What comes of one attempt; `None`: nothing ever does.
    fn connect(&self, address: SocketAddr) -> Option<io::Result<End>>;
}

thread_local!(static UPSTREAM: RefCell<Option<Rc<dyn Upstream>>> = const { RefCell::new(None) });

/// From now on this thread's relay connects there.
pub(crate) fn set_upstream(upstream: Option<Rc<dyn Upstream>>) {
    UPSTREAM.with(|slot| *slot.borrow_mut() = upstream);
}

fn upstream() -> io::Result<Rc<dyn Upstream>> {
    UPSTREAM.with(|slot| slot.borrow().clone()).ok_or_else(|| io::Error::from(io::ErrorKind::NetworkUnreachable))
}

/// The driver.
pub(crate) struct Sim;

impl Driver for Sim {
    type Stream = SimStream;
    type Link = SimLink;

    const NAME: &'static str = "simulated";

    fn probe() -> io::Result<()> {
        Ok(())
    }

    async fn resolve(_host: &str, _port: u16) -> io::Result<Vec<SocketAddr>> {
        upstream()?.resolve()
    }

    async fn connect(address: SocketAddr, _options: &ConnectOptions) -> io::Result<SimLink> {
        match upstream()?.connect(address) {
            Some(end) => Ok(SimLink { end: end? }),
            None => std::future::pending().await,
        }
    }

    fn run<F: Future>(_streams: usize, future: F) -> io::Result<F::Output> {
        rt::run_on_virtual_time(future)
    }
}
