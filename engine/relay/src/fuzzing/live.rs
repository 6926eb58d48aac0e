//! An end whose handshake is done, as short as it can be said.

use std::ops::Range;

use sealane_proto::fuzzing::Script;
use sealane_proto::limits::BUFFER_SMALL_BYTES;
use sealane_proto::tls::{
    AlertDescription, ContentType, Inbound, Pieces, Progress, Sealer, TlsError, Version, Window, key_update,
};

use crate::handshake::Established;
use crate::keys::{KeySchedule, TlsFacts};

/// Says what a script tells it, and remembers what it hears.
pub(super) struct Live {
    sealer: Sealer,
    inbound: Inbound,
    keys: Box<dyn KeySchedule>,
    /// Received and not opened.
    input: Vec<u8>,
    /// The application data that was said.
    pub(super) said: Vec<u8>,
    pub(super) said_close: bool,
    /// The application data that was heard.
    pub(super) heard: Vec<u8>,
    pub(super) heard_close: bool,
    pub(super) error: Option<TlsError>,
    pub(super) tickets: usize,
    pub(super) facts: TlsFacts,
}

struct Ranges(Vec<Range<usize>>);

impl Pieces for Ranges {
    fn push(&mut self, range: Range<usize>) -> bool {
        self.0.push(range);
        true
    }

    fn grow_last(&mut self, end: usize) {
        self.0.last_mut().expect("nothing to grow").end = end;
    }
}

impl Live {
    /// Takes over from the handshake, as a session does.
    pub(super) fn new(established: Established) -> Self {
        let Established { sealer, inbound, keys, early, left_over, peer_closed, facts } = established;
        let mut live = Self {
            sealer,
            inbound,
            keys,
            input: Vec::new(),
            said: Vec::new(),
            said_close: false,
            heard: early,
            heard_close: peer_closed,
            error: None,
            tickets: 0,
            facts,
        };
        if !peer_closed {
            assert!(left_over.len() <= BUFFER_SMALL_BYTES, "{} bytes are left over", left_over.len());
            live.hear(&left_over, &mut Vec::new());
        }
        live
    }

    /// Does what the script says next, and puts the records onto `wire`.
    pub(super) fn act(&mut self, script: &mut Script<'_>, wire: &mut Vec<u8>) {
        if self.said_close {
            return;
        }
        match script.byte() % 8 {
            0 => {}
            1 => self.say(usize::from(script.byte()), wire),
            2 => self.say(usize::from(script.word()) % 16_385, wire),
            3 => self.say(0, wire),
            4 => self.update_key(false, 5, wire),
            5 => self.update_key(true, 5, wire),
            6 => self.update_key(script.byte() & 1 != 0, 1 + usize::from(script.byte() % 4), wire),
            _ => {
                self.said_close = true;
                self.seal(ContentType::ALERT, &AlertDescription::CLOSE_NOTIFY.encode(), wire);
            }
        }
    }

    fn say(&mut self, length: usize, wire: &mut Vec<u8>) {
        let at = self.said.len();
        let text: Vec<u8> = (at..at + length).map(|at| (at ^ at >> 8) as u8).collect();
        self.seal(ContentType::APPLICATION_DATA, &text, wire);
        self.said.extend(text);
    }

    fn update_key(&mut self, request: bool, part: usize, wire: &mut Vec<u8>) {
        if self.sealer.version() == Version::Tls13 {
            for part in key_update(request).chunks(part) {
                self.seal(ContentType::HANDSHAKE, part, wire);
            }
            let key = self.keys.next_sending_key().expect("the next sending key");
            self.sealer.rekey(&key);
        }
    }

    fn seal(&mut self, kind: ContentType, content: &[u8], wire: &mut Vec<u8>) {
        let mut record = vec![0; content.len() + 64];
        let length = self.sealer.seal_message(kind, content, &mut record).expect("sealing");
        wire.extend(record.drain(..length));
    }

    /// Takes bytes of the peer; an answer goes onto `wire`.
    pub(super) fn hear(&mut self, bytes: &[u8], wire: &mut Vec<u8>) {
        self.input.extend_from_slice(bytes);
        let mut window = Window::holding(self.input.len());
        let mut pieces = Ranges(Vec::new());
        while self.error.is_none() && !self.heard_close {
            match self.inbound.advance(&mut self.input, window.cursor(), &mut pieces) {
                Ok(Progress::NeedBytes) => break,
                Ok(Progress::Closed) => self.heard_close = true,
                Ok(Progress::KeyUpdate { answer }) => {
                    let key = self.keys.next_receiving_key().expect("the next receiving key");
                    self.inbound.rekey(&key);
                    if answer && !self.said_close {
                        self.update_key(false, 5, wire);
                    }
                }
                Ok(Progress::Ticket(body)) => {
                    self.keys.ticket(&body).expect("a ticket");
                    self.tickets += 1;
                }
                Ok(Progress::Renegotiation) => panic!("rustls asks for no renegotiation"),
                Err(error) => self.error = Some(error),
            }
        }
        for range in pieces.0 {
            self.heard.extend_from_slice(self.input.get(range).expect("a piece inside the input"));
        }
        self.input.drain(..window.held().start);
    }
}
