//! What peers do wrong.

use sealane_proto::tls::Version;

use super::{HeardEnd, Over, Peer};
use crate::records::{ALERT, DATA, HANDSHAKE, PLAIN_BYTES_MAX};
use crate::rpc::Draft;
use crate::stats::Fault;
use crate::transport::Transport;

impl Peer {
    pub(super) async fn commit(&self, fault: Fault) -> Result<(), Over> {
        if fault == Fault::CloseInRecord {
            // An end like any other: everything is still to arrive.
            self.network.count(fault);
            self.say_half_message().await?;
            return self.close().await;
        }
        if fault == Fault::EarlyClose {
            self.network.count(fault);
            self.say_rest().await?;
            return self.close().await;
        }
        self.strike(fault);
        match fault {
            Fault::PlainReset | Fault::TlsReset => self.socket().abort(),
            Fault::PathCut => self.socket().cut(),
            Fault::TlsEndWithoutClose => self.socket().shutdown_write(),
            Fault::PlainEndInRecord | Fault::HalfARecord | Fault::TlsEndInRecord => {
                self.say_half().await?;
                if fault != Fault::HalfARecord {
                    self.socket().shutdown_write();
                }
            }
            _ => {
                let wire = self.bad_records(fault);
                self.write(&wire).await?;
            }
        }
        Ok(())
    }

    /// Says nothing more, whatever it hears, and keeps its socket until the relay has given up its own.
    pub(super) async fn never_end(&self) -> Result<(), Over> {
        while self.heard_end.get() == HeardEnd::Open {
            self.changed.wait().await;
        }
        self.strike(Fault::NeverEnds);
        self.socket().until(|end| end.is_abandoned().then_some(())).await;
        Ok(())
    }

    /// What waits: it may be the rest of a message.
    async fn say_rest(&self) -> Result<(), Over> {
        let rest: Vec<u8> = self.queue.borrow_mut().drain(..).collect();
        if rest.is_empty() { Ok(()) } else { self.say(&rest).await }
    }

    fn message_to_cut(&self) -> Vec<u8> {
        let random = &mut self.random.borrow_mut();
        Draft::new(random, true, 600, 20, 1 << 24).record(random)
    }

    /// Half of a message, in whole records.
    async fn say_half_message(&self) -> Result<(), Over> {
        self.say_rest().await?;
        let message = self.message_to_cut();
        let half = self.random.borrow_mut().within(1, message.len() - 1);
        self.say(message.get(..half).unwrap_or_default()).await
    }

    /// Half of a message, or of a record with one in it.
    async fn say_half(&self) -> Result<(), Over> {
        self.say_rest().await?;
        let message = self.message_to_cut();
        if self.transport.borrow().is_plain() {
            let half = self.random.borrow_mut().within(1, message.len() - 1);
            self.said.borrow_mut().extend_from_slice(&message[..half]);
            return self.write(&message[..half]).await;
        }
        let wire = match &mut *self.transport.borrow_mut() {
            Transport::Records(records) => records.seal(DATA, &message, 0),
            _ => return Err(Over),
        };
        let half = self.random.borrow_mut().within(1, wire.len() - 1);
        self.write(&wire[..half]).await
    }

    /// Records that break the protocol. Whatever they carry was never said.
    fn bad_records(&self, fault: Fault) -> Vec<u8> {
        let mut transport = self.transport.borrow_mut();
        let Transport::Records(records) = &mut *transport else { return Vec::new() };
        let mut random = self.random.borrow_mut();
        let is_13 = records.version == Version::Tls13;
        let lie = vec![0x55; random.within(1, 300)];
        match fault {
            Fault::RecordChanged => {
                let mut wire = records.seal(DATA, &lie, 0);
                let at = random.within(5, wire.len() - 1);
                wire[at] ^= 1 << random.below(8);
                wire
            }
            Fault::RecordDropped => {
                records.skip_number();
                records.seal(DATA, &lie, 0)
            }
            Fault::RecordRepeated => {
                let text = Draft::new(&mut random, false, 40, 0, 1 << 24).record(&mut random);
                self.said.borrow_mut().extend_from_slice(&text);
                let record = records.seal(DATA, &text, 0);
                [record.clone(), record].concat()
            }
            Fault::RecordTooLong => match random.below(2) {
                0 => vec![DATA, 3, 3, 0x41, 0x01],
                _ => records.seal(DATA, &vec![0x55; PLAIN_BYTES_MAX + 1], 0),
            },
            Fault::RecordOfNoType => records.seal(if is_13 { 99 } else { 20 }, &lie, 0),
            Fault::FatalAlert => records.seal(ALERT, &[2, 80], 0),
            Fault::Flood => {
                let kind = random.below(2);
                let mut one = || match (is_13, kind) {
                    (true, 0) => records.key_update(false),
                    (false, 0) => records.seal(ALERT, &[1, 90], 0),
                    _ => records.seal(DATA, &[], 0),
                };
                (0..40).flat_map(|_| one()).collect()
            }
            Fault::Interleaved => {
                let mut wire = records.seal(HANDSHAKE, &[4, 0, 1, 0, 7], 0);
                wire.extend(records.seal(DATA, &lie, 0));
                wire
            }
            Fault::KeyUpdateNotLast => {
                let behind: &[u8] = if random.chance(500) { &[24, 0, 0, 1, 0] } else { &[4, 0] };
                records.seal(HANDSHAKE, &[&[24, 0, 0, 1, 0], behind].concat(), 0)
            }
            Fault::AlertInMessage => {
                let mut wire = records.seal(HANDSHAKE, &[4, 0, 1, 0, 7], 0);
                wire.extend(records.seal(ALERT, &[1, random.pick(&[0, 90])], 0));
                wire
            }
            _ => {
                let mut wire = vec![0; 20_000];
                random.fill(&mut wire);
                wire
            }
        }
    }
}
