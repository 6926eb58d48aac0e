//! What a peer hears, and compares with what was said.

use std::time::Duration;

use super::{HeardEnd, Peer};
use crate::records::Heard;
use crate::rpc::Message;
use crate::stats::Fault;

/// From a request for the next key to the KeyUpdate that answers it, apart from what others take: what is on its way at the
/// moment of the request, and nothing for the relay.
const KEY_ANSWER_MAX: Duration = Duration::from_millis(45);

impl Peer {
    pub(super) async fn listen(&self) {
        loop {
            if self.fault() == Some(Fault::PeerTakesNothing) && self.is_due(Fault::PeerTakesNothing) {
                self.strike(Fault::PeerTakesNothing);
                self.socket().until(|end| end.is_abandoned().then_some(())).await;
                self.note_reset();
                break;
            }
            self.pause_reading().await;
            let most = self.most_to_receive();
            match self.socket().receive(most).await {
                Err(_) => self.note_reset(),
                Ok(bytes) if bytes.is_empty() => {
                    let is_plain = self.transport.borrow().is_plain();
                    if self.heard_end.get() == HeardEnd::Open {
                        self.heard_end.set(if is_plain { HeardEnd::Well } else { HeardEnd::Bare });
                    }
                }
                Ok(bytes) => {
                    if let Err(wrong) = self.hear(bytes) {
                        self.wrong.borrow_mut().get_or_insert(wrong);
                        self.socket().abort();
                        self.note_reset();
                    } else {
                        self.changed.set();
                        continue;
                    }
                }
            }
            break;
        }
        self.listened.set(true);
        self.changed.set();
    }

    async fn pause_reading(&self) {
        let socket = self.socket();
        if !self.behaviour.reads_on && self.is_to_pause() {
            socket.pause(self.behaviour.pause).await;
            if socket.is_full() {
                self.network.count(Fault::SlowReader);
            }
        }
        let shut = self.behaviour.shut.filter(|(at, _)| self.heard_bytes.get() >= *at && !self.was_shut.get());
        if let Some((_, duration)) = shut {
            self.was_shut.set(true);
            socket.pause(duration).await;
            if socket.is_full() {
                self.network.count(if duration.as_secs() >= 100 { Fault::WindowShut } else { Fault::SlowReader });
            }
        }
    }

    fn most_to_receive(&self) -> usize {
        let mut random = self.random.borrow_mut();
        if random.chance(250) { random.within(1, 3000) } else { 1 << 18 }
    }

    fn hear(&self, bytes: Vec<u8>) -> Result<(), String> {
        if let HeardEnd::Alert(_) = self.heard_end.get() {
            return Ok(());
        }
        let silent_from = self.socket().silent_from();
        let heard = self.transport.borrow_mut().hear(bytes, silent_from)?;
        for heard in heard {
            match heard {
                _ if self.heard_end.get() == HeardEnd::Well => return Err(format!("{heard:?} behind the end")),
                Heard::Data(data) => self.take(&data)?,
                Heard::CloseNotify => {
                    self.heard_end.set(HeardEnd::Well);
                    self.key_answer_is_in_time()?;
                    if self.is_12 {
                        // Its receiver answers at once and drops what it would have written (RFC 5246 section 7.2.1).
                        self.queue.borrow_mut().clear();
                    }
                }
                Heard::Alert(description) => {
                    self.network.count(Fault::AlertHeard);
                    self.heard_end.set(HeardEnd::Alert(description));
                }
                Heard::KeyUpdate { answer, is_of_age } => {
                    if is_of_age {
                        self.network.count(Fault::OwnKeyUpdate);
                    }
                    if answer {
                        self.key_answer_due.set(true);
                    } else {
                        self.key_answer_is_in_time()?;
                        self.key_wanted.set(None);
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether the relay has not let the peer wait for its next key.
    fn key_answer_is_in_time(&self) -> Result<(), String> {
        let is_cut = self.fault() == Some(Fault::PathCut) && self.struck.get().is_some();
        // A tunnel may stop in the middle of a pause that the relay had to wait for.
        let is_excused = is_cut || self.fault() == Some(Fault::Stopped);
        let Some(wanted) = self.key_wanted.get().filter(|_| !is_excused) else { return Ok(()) };
        let waited = self.socket().moment().unexplained_since(wanted);
        match waited > KEY_ANSWER_MAX {
            true => Err(format!("a KeyUpdate was asked for and not answered for {} ms", waited.as_millis())),
            false => Ok(()),
        }
    }

    /// The first promise: what is heard is what was said, in order.
    fn take(&self, data: &[u8]) -> Result<(), String> {
        let at = self.heard_bytes.get();
        let expected = self.other_said.borrow();
        if expected.get(at..at + data.len()) != Some(data) {
            let same = expected.iter().skip(at).zip(data).take_while(|(said, heard)| said == heard).count();
            return Err(format!("byte {} is not what was said ({} bytes were)", at + same, expected.len()));
        }
        drop(expected);
        self.heard_bytes.set(at + data.len());
        if self.behaviour.stream.is_none() {
            let messages = self.reader.borrow_mut().read(data);
            messages.into_iter().for_each(|message| self.answer(message));
        }
        Ok(())
    }

    fn answer(&self, message: Message) {
        if message.is_extra {
            return;
        }
        if !message.is_call {
            self.replies_heard.set(self.replies_heard.get() + 1);
            self.outstanding.set(self.outstanding.get().saturating_sub(1));
            return;
        }
        self.calls_heard.set(self.calls_heard.get() + 1);
        if self.behaviour.idle.is_some_and(|(at, _)| at as u64 + 1 == self.calls_heard.get()) {
            self.key_was_asked_for();
        }
        if self.is_due(Fault::ServerSilent) {
            return self.strike(Fault::ServerSilent);
        }
        self.put_message(Some(message.xid), message.reply_bytes, 0);
    }
}
