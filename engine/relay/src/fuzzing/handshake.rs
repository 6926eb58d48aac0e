//! Handshakes: of one end with bytes that mean nothing, and of both ends over a line that cuts, and changes, what it
//! carries. ring's random numbers cannot be chosen, so no check depends on them.

use rustls::pki_types::ServerName;
use sealane_proto::fuzzing::{Cuts, Script};
use sealane_proto::tls::{Role, Version};

use super::ends::{Ends, name};
use super::live::Live;
use crate::handshake::{Handshake, HandshakeError, Wanted};

/// More output than this at once is no handshake.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// The most acts of one end behind its handshake.
const ACTS_MAX: u8 = 12;
/// The most looks at both ends. Cut into single bytes a whole handshake is some thousands.
const LOOKS_MAX: usize = 400_000;

/// The client's end takes arbitrary bytes for those of a server.
///
/// # Panics
/// When it does not end, exceeds a limit, or says something else when the bytes are cut.
pub fn handshake_client(data: &[u8]) {
    alone(data, |bits| {
        let (client, _) = Ends::shared(bits).configs(None);
        Handshake::client(&client, &name()).expect("a new handshake")
    });
}

/// The server's end takes arbitrary bytes for those of a client.
///
/// # Panics
/// As [`handshake_client`].
pub fn handshake_server(data: &[u8]) {
    alone(data, |bits| {
        let (_, server) = Ends::shared(bits).configs(None);
        Handshake::server(&server).expect("a new handshake")
    });
}

fn alone(data: &[u8], end: impl Fn(u8) -> Handshake) {
    let mut script = Script::new(data);
    let (bits, seed) = (script.byte(), script.word());
    let bytes = script.rest();
    let whole = outcome(end(bits), bytes, 0);
    let cut = outcome(end(bits), bytes, seed);
    // What is said of a certificate that has expired tells the time: a second may have begun in between.
    let is_same = cut == whole || cut == outcome(end(bits), bytes, 0);
    assert!(is_same, "seed {seed}: {cut} instead of {whole}");
}

/// The flights of a whole handshake: the client's first, the server's, the client's last. For seeds.
///
/// # Panics
/// When it fails.
pub fn flights(bits: u8) -> [Vec<u8>; 3] {
    let (client, server) = Ends::new(bits).configs(None);
    let mut client = Handshake::client(&client, &name()).expect("a new handshake");
    let mut server = Handshake::server(&server).expect("a new handshake");
    let hello = flight(&mut client, &[]);
    let answer = flight(&mut server, &hello);
    let last = flight(&mut client, &answer);
    [hello, answer, last]
}

/// What an end says to `heard`.
fn flight(end: &mut Handshake, heard: &[u8]) -> Vec<u8> {
    if !heard.is_empty() {
        let space = end.space().expect("space");
        space.iter_mut().zip(heard).for_each(|(to, from)| *to = *from);
        end.filled(heard.len()).expect("a flight");
    }
    let mut said = Vec::new();
    while end.advance().expect("a handshake") == Wanted::Write {
        said.extend_from_slice(end.output());
        end.sent();
    }
    said
}

/// How a handshake with these bytes ended, in words.
fn outcome(mut handshake: Handshake, mut bytes: &[u8], seed: u16) -> String {
    let mut cuts = Cuts::new(seed);
    for _ in 0..bytes.len() * 2 + 1000 {
        match handshake.advance() {
            Ok(Wanted::Done) => return "done".into(),
            Ok(Wanted::Write) => {
                assert!((1..=OUTPUT_BYTES_MAX).contains(&handshake.output().len()));
                handshake.sent();
            }
            Ok(Wanted::Read) => {
                let ended = match handshake.space() {
                    Err(error) => Err(error),
                    Ok(space) => {
                        assert!(!space.is_empty(), "no space and no error");
                        let count = bytes.len().min(space.len());
                        let count = if count == 0 { 0 } else { cuts.next(count) };
                        let (now, later) = bytes.split_at(count);
                        space.iter_mut().zip(now).for_each(|(to, from)| *to = *from);
                        bytes = later;
                        handshake.filled(count)
                    }
                };
                if let Err(error) = ended {
                    return format!("{error:?}");
                }
            }
            Err(error) => {
                ends_in_an_alert(&handshake);
                return format!("{error:?}");
            }
        }
    }
    panic!("the handshake does not end");
}

/// A failed handshake has whole records to send, an alert last, or nothing.
fn ends_in_an_alert(handshake: &Handshake) {
    let mut output = handshake.output();
    assert!(output.len() <= OUTPUT_BYTES_MAX);
    while let [kind, _, _, high, low, rest @ ..] = output {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        output = rest.get(length..).expect("a whole record");
        assert!(!output.is_empty() || matches!(kind, 21 | 23), "a record of type {kind} is the last word");
    }
    assert!(output.is_empty(), "half a record: {output:02x?}");
}

/// Where one end stands.
enum State {
    Shaking(Box<Handshake>),
    Live(Box<Live>),
    Failed,
}

/// One end, and what is on its way to it.
struct End {
    state: State,
    incoming: Vec<u8>,
}

/// Both ends, and the line between them.
struct Line<'s, 'd> {
    script: &'s mut Script<'d>,
    cuts: Cuts,
    /// Whether nothing was changed on the way.
    honest: bool,
    /// Whether what one end says is carried only when it has said all: the server reads data behind the last flight.
    is_slow: bool,
}

/// A client and a server shake hands, and then say something. The line cuts what it carries as it likes. If it changed
/// nothing, both are established and have heard all that the other one said, however early; else nobody has heard
/// anything that was not said.
///
/// The input is a byte of versions and options, one of the size of handshake fragments, a seed of two bytes for the
/// cuts, and then a script: a byte for each flight, whether and how it is changed, and the acts of each end behind its
/// handshake.
///
/// # Panics
/// When that is not so.
pub fn handshake(data: &[u8]) {
    let mut script = Script::new(data);
    let (bits, fragment, seed) = (script.byte(), script.byte(), script.word());
    let fragment = (fragment != 0).then(|| 32 + usize::from(fragment) * 4);
    let resumes = bits & 8 != 0;
    let own = resumes.then(|| Ends::new(bits));
    let ends = own.as_ref().unwrap_or_else(|| Ends::shared(bits));
    let (client, server) = ends.configs(fragment);
    let name: ServerName<'static> = name();
    let mut can_resume = false;
    for _ in 0..if resumes { 2 } else { 1 } {
        let shaking = |handshake: Result<Handshake, _>| End {
            state: State::Shaking(Box::new(handshake.expect("a new handshake"))),
            incoming: Vec::new(),
        };
        let mut ends = [shaking(Handshake::client(&client, &name)), shaking(Handshake::server(&server))];
        let is_slow = bits & 32 != 0;
        let mut line = Line { script: &mut script, cuts: Cuts::new(seed), honest: true, is_slow };
        line.run(&mut ends);
        let [State::Live(client), State::Live(server)] = ends.map(|end| end.state) else {
            assert!(!line.honest, "the handshake failed over an honest line");
            return;
        };
        judge(&client, &server, line.honest);
        assert!(!line.honest || client.facts.resumed == can_resume, "resumed: {}", client.facts.resumed);
        can_resume = client.tickets > 0 || client.facts.version == Version::Tls12;
        if !line.honest {
            return;
        }
    }
}

fn judge(client: &Live, server: &Live, honest: bool) {
    assert_eq!(client.facts, server.facts);
    for (from, to) in [(client, server), (server, client)] {
        let role = if std::ptr::eq(from, client) { Role::Client } else { Role::Server };
        assert!(
            from.said.starts_with(&to.heard),
            "{role:?} said {} bytes, {} others were heard",
            from.said.len(),
            to.heard.len()
        );
        assert!(!to.heard_close || from.said_close, "{role:?} did not close");
        if honest {
            assert_eq!(to.error, None, "records of {role:?}");
            assert!(to.heard.len() == from.said.len(), "{role:?}: {} of {}", to.heard.len(), from.said.len());
            assert_eq!(to.heard_close, from.said_close, "close_notify of {role:?}");
        }
    }
}

impl Line<'_, '_> {
    fn run(&mut self, ends: &mut [End; 2]) {
        for _ in 0..LOOKS_MAX {
            let [client, server] = ends;
            let mut went_on = self.look(client, server);
            if !(went_on && self.is_slow) {
                went_on |= self.look(server, client);
            }
            if !went_on {
                // Both wait: one of them must have failed, or nothing is left to be said.
                let waits = |end: &End| matches!(end.state, State::Shaking(_));
                assert!(!self.honest || !ends.iter().any(waits), "both ends wait for ever");
                return;
            }
        }
        panic!("the handshake does not end");
    }

    /// Lets one end go on; false when it waits.
    fn look(&mut self, end: &mut End, other: &mut End) -> bool {
        match &mut end.state {
            State::Failed => false,
            State::Live(live) => {
                let count = self.pieces(end.incoming.len());
                live.hear(&end.incoming.drain(..count).collect::<Vec<_>>(), &mut other.incoming);
                count > 0
            }
            State::Shaking(handshake) => match handshake.advance() {
                Ok(Wanted::Done) => {
                    self.establish(end, other);
                    true
                }
                Ok(Wanted::Write) => {
                    let mut flight = handshake.output().to_vec();
                    assert!((1..=OUTPUT_BYTES_MAX).contains(&flight.len()));
                    handshake.sent();
                    self.carry(&mut flight);
                    other.incoming.extend(flight);
                    true
                }
                Ok(Wanted::Read) => match self.read(handshake, &mut end.incoming) {
                    Ok(went_on) => went_on,
                    Err(_) => {
                        end.state = State::Failed;
                        true
                    }
                },
                Err(error) => {
                    assert!(!self.honest, "{:?}: {error}", handshake.role());
                    ends_in_an_alert(handshake);
                    other.incoming.extend_from_slice(handshake.output());
                    end.state = State::Failed;
                    true
                }
            },
        }
    }

    fn read(&mut self, handshake: &mut Handshake, incoming: &mut Vec<u8>) -> Result<bool, HandshakeError> {
        let honest = self.honest;
        let space = handshake.space().inspect_err(|error| assert!(!honest, "{error}"))?;
        let count = self.pieces(incoming.len().min(space.len()));
        space.iter_mut().zip(incoming.drain(..count)).for_each(|(to, from)| *to = from);
        if count > 0 { handshake.filled(count).map(|()| true) } else { Ok(false) }
    }

    fn pieces(&mut self, most: usize) -> usize {
        if most == 0 { 0 } else { self.cuts.next(most) }
    }

    fn establish(&mut self, end: &mut End, other: &mut End) {
        let State::Shaking(handshake) = std::mem::replace(&mut end.state, State::Failed) else { return };
        match handshake.establish() {
            Ok(established) => {
                let mut live = Live::new(established);
                let mut flight = Vec::new();
                for _ in 0..self.script.byte() % (ACTS_MAX + 1) {
                    live.act(self.script, &mut flight);
                }
                self.carry(&mut flight);
                other.incoming.extend(flight);
                end.state = State::Live(Box::new(live));
            }
            Err(error) => panic!("a handshake that is done is not: {error}"),
        }
    }

    /// Changes a flight on its way, if the script says so.
    fn carry(&mut self, flight: &mut Vec<u8>) {
        let act = self.script.byte() % 32;
        if flight.is_empty() || !(1..=6).contains(&act) {
            return;
        }
        if act == 6 {
            return split_first_record(flight, usize::from(self.script.byte()));
        }
        let before = flight.clone();
        let at = usize::from(self.script.word());
        match act {
            1 => {
                let index = at >> 3;
                let index = index % flight.len();
                flight.iter_mut().skip(index).take(1).for_each(|byte| *byte ^= 1 << (at & 7));
            }
            2 => flight.extend_from_within(at % flight.len()..),
            3 => flight.truncate(at % flight.len()),
            4 => {
                let at = at % (flight.len() + 1);
                let count = usize::from(self.script.byte() % 64);
                flight.splice(at..at, self.script.bytes(count).iter().copied());
            }
            _ => {
                let middle = at % flight.len();
                flight.rotate_left(middle);
            }
        }
        self.honest &= *flight == before;
    }
}

/// Splits the first record in two if it is one of the handshake, and so not encrypted yet: that changes nothing that it
/// says (RFC 8446 section 5.1).
fn split_first_record(flight: &mut Vec<u8>, at: usize) {
    let &[22, major, minor, high, low, ..] = flight.as_slice() else { return };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if at == 0 || at >= length || flight.len() < 5 + length {
        return;
    }
    let [first_high, first_low] = (at as u16).to_be_bytes();
    let [second_high, second_low] = ((length - at) as u16).to_be_bytes();
    flight.splice(5 + at..5 + at, [22, major, minor, second_high, second_low]);
    flight.splice(3..5, [first_high, first_low]);
}
