//! What all connections of a server share, and the replies that they send.

use std::borrow::Cow;
use std::io::IoSlice;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::clients::Clients;
use super::content::Held;
use super::opens::Opens;
use super::tree::Tree;
use crate::clock;
use crate::nfs4::Status;
use crate::xdr::Encoder;

/// The export and the state of its clients.
///
/// Locks are taken in the order clients, opens, tree, the content of one file; none is held while a socket is used.
#[derive(Debug)]
pub(super) struct Export {
    /// Differs from one start to the next: in handles, verifiers and the server's name.
    pub(super) instance: u64,
    clients: Mutex<Clients>,
    opens: Mutex<Opens>,
    tree: Mutex<Tree>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Export {
    pub(super) fn new(bytes_max: u64) -> Self {
        let now = clock::wall();
        Self::with_instance(bytes_max, (now.seconds as u64) << 32 | u64::from(now.nanoseconds))
    }

    /// An export whose handles and identifiers follow from `instance`.
    pub(super) fn with_instance(bytes_max: u64, instance: u64) -> Self {
        let (now, started) = (clock::wall(), clock::monotonic());
        let clients = Mutex::new(Clients::new(instance as u32 ^ (instance >> 32) as u32, started));
        Self { instance, clients, opens: Mutex::default(), tree: Mutex::new(Tree::new(bytes_max, now)) }
    }

    pub(super) fn clients(&self) -> MutexGuard<'_, Clients> {
        lock(&self.clients)
    }

    pub(super) fn opens(&self) -> MutexGuard<'_, Opens> {
        lock(&self.opens)
    }

    pub(super) fn tree(&self) -> MutexGuard<'_, Tree> {
        lock(&self.tree)
    }

    pub(super) fn now() -> Instant {
        clock::monotonic()
    }

    /// The verifier of WRITE, COMMIT and READDIR: what was written unstable is lost with the instance.
    pub(super) const fn verifier(&self) -> [u8; 8] {
        self.instance.to_be_bytes()
    }
}

/// A file handle.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Handle {
    pub(super) instance: u64,
    pub(super) number: u64,
}

impl Handle {
    pub(super) fn bytes(self) -> [u8; 16] {
        (u128::from(self.instance) << 64 | u128::from(self.number)).to_be_bytes()
    }

    /// # Errors
    /// `NFS4ERR_BADHANDLE` for what no server of this kind made.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, Status> {
        let both = u128::from_be_bytes(bytes.try_into().map_err(|_| Status::BADHANDLE)?);
        Ok(Self { instance: (both >> 64) as u64, number: both as u64 })
    }
}

/// Bytes of a file, to be sent at a place in a reply.
#[derive(Debug)]
pub(super) struct Payload {
    pub(super) at: usize,
    pub(super) held: Held,
}

/// Replies to be sent, the payloads of READs still where the files have them.
#[derive(Debug, Default)]
pub(super) struct Reply {
    pub(super) bytes: Encoder,
    pub(super) payloads: Vec<Payload>,
}

/// A place in a reply, to measure from or to go back to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    bytes: usize,
    payloads: usize,
}

impl Reply {
    pub(super) fn place(&self) -> Place {
        Place { bytes: self.bytes.len(), payloads: self.payloads.len() }
    }

    pub(super) fn payload_bytes(&self, since: Place) -> usize {
        self.payloads.iter().skip(since.payloads).map(|payload| payload.held.bytes().len()).sum()
    }

    /// What has been added since, payloads included.
    pub(super) fn len(&self, since: Place) -> usize {
        self.bytes.len() - since.bytes + self.payload_bytes(since)
    }

    pub(super) fn go_back(&mut self, place: Place) {
        self.bytes.truncate(place.bytes);
        self.payloads.truncate(place.payloads);
    }

    /// What has been added since, in one piece.
    pub(super) fn joined(&self, since: Place) -> Cow<'_, [u8]> {
        if self.payloads.len() == since.payloads {
            return Cow::Borrowed(self.bytes.bytes().get(since.bytes..).unwrap_or_default());
        }
        Cow::Owned(self.slices_since(since).iter().flat_map(|slice| slice.iter().copied()).collect())
    }

    /// All of it in order, payloads in their places.
    pub(super) fn slices(&self) -> Vec<IoSlice<'_>> {
        self.slices_since(Place { bytes: 0, payloads: 0 })
    }

    fn slices_since(&self, since: Place) -> Vec<IoSlice<'_>> {
        let payloads = self.payloads.get(since.payloads..).unwrap_or_default();
        let mut slices = Vec::with_capacity(2 * payloads.len() + 1);
        let (mut rest, mut taken) = (self.bytes.bytes().get(since.bytes..).unwrap_or_default(), since.bytes);
        for payload in payloads {
            let (head, behind) = rest.split_at_checked(payload.at - taken).unwrap_or((rest, &[]));
            slices.push(IoSlice::new(head));
            slices.push(IoSlice::new(payload.held.bytes()));
            (rest, taken) = (behind, payload.at);
        }
        slices.push(IoSlice::new(rest));
        slices
    }

    pub(super) fn clear(&mut self) {
        self.bytes.truncate(0);
        self.payloads.clear();
    }
}
