//! Clients, their sessions, and the slots whose replies are kept (RFC 8881 section 2.10).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::limits::{CLIENTS_MAX, LEASE_SECONDS, SESSIONS_MAX};
use crate::nfs4::{SessionId, Status};

/// One slot: the sequence of the last request, and what became of it.
#[derive(Debug, Default)]
struct Slot {
    sequence: u32,
    last: Last,
}

/// The last request of a slot.
#[derive(Debug, Default)]
enum Last {
    /// There was none: the sequence in front of the first is that of no request.
    #[default]
    None,
    Busy,
    /// With the reply, if it was kept.
    Done(Option<Arc<[u8]>>),
}

/// What a channel takes, as negotiated (`channel_attrs4`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Channel {
    pub(super) request_bytes_max: u32,
    pub(super) response_bytes_max: u32,
    pub(super) response_cached_bytes_max: u32,
    pub(super) operations_max: u32,
    pub(super) slots: u32,
}

/// What to do with a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Sequenced {
    /// It is new: execute it, then [`Session::done`].
    New,
    /// It was executed; this was the reply, if it was kept.
    Replay(Option<Arc<[u8]>>),
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: u64,
    pub(super) fore: Channel,
    slots: Vec<Mutex<Slot>>,
    /// When the lease was last renewed, in milliseconds since the server's start.
    renewed_ms: Arc<AtomicU64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    /// Begins a request (RFC 8881 section 2.10.6.1).
    pub(super) fn begin(&self, slot: u32, sequence: u32) -> Result<Sequenced, Status> {
        let mut slot = lock(self.slots.get(slot as usize).ok_or(Status::BADSLOT)?);
        let is_next = sequence == slot.sequence.wrapping_add(1);
        let is_last = sequence == slot.sequence;
        match &slot.last {
            Last::Busy if is_last => Err(Status::DELAY),
            Last::Done(reply) if is_last => Ok(Sequenced::Replay(reply.clone())),
            Last::None | Last::Done(_) if is_next => {
                *slot = Slot { sequence, last: Last::Busy };
                Ok(Sequenced::New)
            }
            _ => Err(Status::SEQ_MISORDERED),
        }
    }

    /// Ends a request, with the reply to be kept.
    pub(super) fn done(&self, slot: u32, reply: Option<&[u8]>) {
        if let Some(slot) = self.slots.get(slot as usize) {
            lock(slot).last = Last::Done(reply.map(Arc::from));
        }
    }
}

#[derive(Debug)]
struct Client {
    owner: Vec<u8>,
    verifier: [u8; 8],
    /// A CREATE_SESSION has been made.
    confirmed: bool,
    reclaim_complete: bool,
    /// The sequence of the next CREATE_SESSION, and the reply to the last.
    sequence: u32,
    created: Option<Created>,
    renewed_ms: Arc<AtomicU64>,
}

/// What EXCHANGE_ID answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Exchanged {
    pub(super) client: u64,
    pub(super) sequence: u32,
    pub(super) confirmed: bool,
}

/// What CREATE_SESSION answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Created {
    pub(super) session: SessionId,
    pub(super) sequence: u32,
    pub(super) flags: u32,
    pub(super) fore: Channel,
    pub(super) back: Channel,
}

/// All clients and sessions of the server.
#[derive(Debug)]
pub(super) struct Clients {
    clients: HashMap<u64, Client>,
    sessions: HashMap<SessionId, Arc<Session>>,
    /// The upper half of client ids, so that those of another server are stale.
    instance: u32,
    count: u32,
    started: Instant,
}

impl Clients {
    pub(super) fn new(instance: u32, started: Instant) -> Self {
        Self { clients: HashMap::new(), sessions: HashMap::new(), instance, count: 0, started }
    }

    fn age_ms(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_millis() as u64 // 584 million years
    }

    /// EXCHANGE_ID (RFC 8881 section 18.35.4), with `update` for UPD_CONFIRMED_REC_A. Gone clients are added to `gone`.
    pub(super) fn exchange(
        &mut self,
        (owner, verifier): (&[u8], [u8; 8]),
        update: bool,
        now: Instant,
        gone: &mut Vec<u64>,
    ) -> Result<Exchanged, Status> {
        let confirmed = self.clients.iter().find(|(_, client)| client.confirmed && client.owner == owner);
        match confirmed {
            Some((_, client)) if update && client.verifier != verifier => return Err(Status::NOT_SAME),
            None if update => return Err(Status::NOENT),
            Some((id, client)) if client.verifier == verifier => {
                return Ok(Exchanged { client: *id, sequence: client.sequence, confirmed: true });
            }
            // The client has started again: its old record stays until the new one is confirmed.
            _ => {}
        }
        self.clients.retain(|_, client| client.confirmed || client.owner != owner);
        self.make_room(now, gone)?;
        self.count = self.count.wrapping_add(1);
        let id = u64::from(self.instance) << 32 | u64::from(self.count);
        let renewed_ms = Arc::new(AtomicU64::new(self.age_ms(now)));
        let owner = owner.to_vec();
        let client = Client {
            owner,
            verifier,
            confirmed: false,
            reclaim_complete: false,
            sequence: 1,
            created: None,
            renewed_ms,
        };
        self.clients.insert(id, client);
        Ok(Exchanged { client: id, sequence: 1, confirmed: false })
    }

    /// Makes room for one more client, in place of those whose lease is over.
    fn make_room(&mut self, now: Instant, gone: &mut Vec<u64>) -> Result<(), Status> {
        if self.clients.len() < CLIENTS_MAX {
            return Ok(());
        }
        let lease_ms = Duration::from_secs(LEASE_SECONDS.into()).as_millis() as u64;
        let over = self.age_ms(now).saturating_sub(lease_ms);
        let expired = self.clients.iter().filter(|(_, client)| client.renewed_ms.load(Ordering::Relaxed) < over);
        let expired: Vec<u64> = expired.map(|(id, _)| *id).collect();
        expired.iter().for_each(|id| self.forget(*id));
        gone.extend(expired);
        if self.clients.len() < CLIENTS_MAX { Ok(()) } else { Err(Status::DELAY) }
    }

    fn forget(&mut self, id: u64) {
        self.clients.remove(&id);
        self.sessions.retain(|_, session| session.client != id);
    }

    /// CREATE_SESSION (RFC 8881 section 18.36.4) with channels that are negotiated already.
    pub(super) fn create_session(
        &mut self,
        (id, sequence): (u64, u32),
        (fore, back, flags): (Channel, Channel, u32),
        gone: &mut Vec<u64>,
    ) -> Result<Created, Status> {
        let sessions = self.sessions.len();
        let count = self.count.wrapping_add(1);
        let client = self.clients.get_mut(&id).ok_or(Status::STALE_CLIENTID)?;
        match client.created {
            Some(created) if created.sequence == sequence => return Ok(created),
            _ if sequence != client.sequence => return Err(Status::SEQ_MISORDERED),
            _ if sessions >= SESSIONS_MAX => return Err(Status::DELAY),
            _ => {}
        }
        let mut session = [0; 16];
        let words = [(id >> 32) as u32, id as u32, count, sequence];
        session.as_chunks_mut::<4>().0.iter_mut().zip(words).for_each(|(to, word)| *to = word.to_be_bytes());
        self.count = count;
        let created = Created { session, sequence, flags, fore, back };
        client.sequence = client.sequence.wrapping_add(1);
        (client.created, client.confirmed) = (Some(created), true);
        let slots = (0..fore.slots).map(|_| Mutex::default()).collect();
        let (renewed_ms, owner) = (Arc::clone(&client.renewed_ms), client.owner.clone());
        self.sessions.insert(session, Arc::new(Session { client: id, fore, slots, renewed_ms }));
        let replaced = self.clients.iter().filter(|(other, client)| **other != id && client.owner == owner);
        let replaced: Vec<u64> = replaced.map(|(other, _)| *other).collect();
        replaced.iter().for_each(|other| self.forget(*other));
        gone.extend(replaced);
        Ok(created)
    }

    /// The session of an id, its client's lease renewed.
    pub(super) fn session(&self, id: &SessionId, now: Instant) -> Result<Arc<Session>, Status> {
        let session = self.sessions.get(id).ok_or(Status::BADSESSION)?;
        session.renewed_ms.store(self.age_ms(now), Ordering::Relaxed);
        Ok(Arc::clone(session))
    }

    pub(super) fn destroy_session(&mut self, id: &SessionId) -> Result<(), Status> {
        self.sessions.remove(id).map(drop).ok_or(Status::BADSESSION)
    }

    pub(super) fn destroy_client(&mut self, id: u64) -> Result<(), Status> {
        if !self.clients.contains_key(&id) {
            return Err(Status::STALE_CLIENTID);
        }
        if self.sessions.values().any(|session| session.client == id) {
            return Err(Status::CLIENTID_BUSY);
        }
        self.clients.remove(&id);
        Ok(())
    }

    pub(super) fn reclaim_complete(&mut self, id: u64) -> Result<(), Status> {
        let client = self.clients.get_mut(&id).ok_or(Status::STALE_CLIENTID)?;
        if std::mem::replace(&mut client.reclaim_complete, true) { Err(Status::COMPLETE_ALREADY) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANNEL: Channel = Channel {
        request_bytes_max: 1000,
        response_bytes_max: 1000,
        response_cached_bytes_max: 1000,
        operations_max: 8,
        slots: 2,
    };

    fn start() -> Instant {
        crate::clock::monotonic()
    }

    /// A client with a session.
    fn open(
        clients: &mut Clients,
        owner: u8,
        now: Instant,
        gone: &mut Vec<u64>,
    ) -> Result<(u64, Arc<Session>), Status> {
        let exchanged = clients.exchange((&[owner], [0; 8]), false, now, gone)?;
        let created = clients.create_session((exchanged.client, exchanged.sequence), (CHANNEL, CHANNEL, 0), gone)?;
        Ok((exchanged.client, clients.session(&created.session, now)?))
    }

    #[test]
    fn a_request_that_is_under_way_is_not_begun_again() {
        let now = start();
        let mut clients = Clients::new(1, now);
        let (_, session) = open(&mut clients, 1, now, &mut Vec::new()).unwrap();
        assert_eq!(session.begin(1, 1), Ok(Sequenced::New));
        assert_eq!(session.begin(1, 1), Err(Status::DELAY));
        assert_eq!(session.begin(1, 2), Err(Status::SEQ_MISORDERED));
        assert_eq!(session.begin(0, 1), Ok(Sequenced::New), "another slot");
        session.done(1, Some(b"reply"));
        assert_eq!(session.begin(1, 1), Ok(Sequenced::Replay(Some(b"reply".as_slice().into()))));
        assert_eq!(session.begin(1, 2), Ok(Sequenced::New));
        session.done(1, None);
        assert_eq!(session.begin(1, 2), Ok(Sequenced::Replay(None)));
    }

    #[test]
    fn a_slot_goes_on_behind_the_largest_sequence_and_repeats_what_it_replied_there() {
        let now = start();
        let mut clients = Clients::new(1, now);
        let (_, session) = open(&mut clients, 1, now, &mut Vec::new()).unwrap();
        lock(&session.slots[0]).sequence = u32::MAX - 1;
        for sequence in [u32::MAX, 0, 1] {
            assert_eq!(session.begin(0, sequence), Ok(Sequenced::New), "{sequence}");
            assert_eq!(session.begin(0, sequence), Err(Status::DELAY), "{sequence}");
            session.done(0, Some(&sequence.to_be_bytes()));
            let kept = Some(sequence.to_be_bytes().as_slice().into());
            assert_eq!(session.begin(0, sequence), Ok(Sequenced::Replay(kept)), "{sequence}");
        }
    }

    #[test]
    fn a_silent_client_gives_way_to_a_new_one_and_a_speaking_one_does_not() {
        let now = start();
        let mut clients = Clients::new(1, now);
        let mut gone = Vec::new();
        let mut opened: Vec<_> =
            (0..CLIENTS_MAX as u8).map(|owner| open(&mut clients, owner, now, &mut gone).unwrap()).collect();
        let later = now + Duration::from_secs(u64::from(LEASE_SECONDS) + 1);
        let (silent, _) = opened.remove(5);
        for (id, _) in &opened {
            let session =
                clients.sessions.iter().find(|(_, session)| session.client == *id).map(|(id, _)| *id).unwrap();
            clients.session(&session, later - Duration::from_secs(1)).unwrap();
        }
        assert_eq!(open(&mut clients, 200, now, &mut gone).map(drop), Err(Status::DELAY));
        open(&mut clients, 201, later, &mut gone).unwrap();
        assert_eq!(gone, [silent]);
        assert_eq!(open(&mut clients, 202, later, &mut gone).map(drop), Err(Status::DELAY));
    }
}
