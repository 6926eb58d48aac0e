//! Records in, records out, without a socket.

mod room;

use room::every_operation;

use super::super::attributes::SUPPORTED;
use super::super::export::{Export, Handle, Reply};
use super::answer;
use crate::client::Request;
use crate::limits::{CLIENTS_MAX, OPERATIONS_MAX};
use crate::nfs4::{Bitmap, Operation as O, Stateid, Status, attribute};
use crate::rpc::{self, CallError, Rejection};
use crate::xdr::{Decoder, Encoder};

/// Who calls in the tests.
const ROOT: (u32, u32) = (0, 0);

/// Answers one record; `None` where the connection would be closed.
fn answered(export: &Export, record: &[u8]) -> Option<Vec<u8>> {
    let mut out = Reply::default();
    match answer(export, record, &mut out) {
        Ok(()) => {}
        Err(CallError::NotACall) => return None,
        Err(other) => panic!("{other:?} is to be answered"),
    }
    let mut whole: Vec<u8> = out.slices().iter().flat_map(|slice| slice.iter().copied()).collect();
    let mark = u32::from_be_bytes(*whole.first_chunk().unwrap());
    assert_eq!(mark as usize, (whole.len() - 4) | 1 << 31, "the mark is that of the record");
    Some(whole.split_off(4))
}

fn record(xid: u32, build: impl FnOnce(&mut Request<'_>)) -> Vec<u8> {
    let mut out = Encoder::new();
    let mut request = Request::new(&mut out, xid, ROOT);
    build(&mut request);
    request.finish(0);
    out.bytes()[4..].to_vec()
}

/// An operation without arguments.
fn bare(request: &mut Request<'_>, operation: O) {
    request.operation(operation);
}

/// The status of a reply, and how many results it has.
fn outcome(reply: &[u8]) -> (Status, u32) {
    let mut from = Decoder::new(reply);
    assert_eq!(rpc::decode_reply(&mut from).map(|(_, accepted)| accepted), Ok(Ok(())));
    let status = Status(from.u32().unwrap());
    from.opaque(1024).unwrap();
    (status, from.u32().unwrap())
}

/// A client with a session.
struct Client<'e> {
    export: &'e Export,
    id: u64,
    session: [u8; 16],
    sequence: u32,
}

fn exchange(export: &Export, owner: &[u8], verifier: u64) -> (u64, u32) {
    let call = record(1, |request| {
        let out = request.operation(O::EXCHANGE_ID);
        out.u64(verifier);
        out.opaque(owner);
        out.words([0, 0, 0]);
    });
    let reply = answered(export, &call).unwrap();
    assert_eq!(outcome(&reply), (Status::OK, 1));
    let mut from = Decoder::new(&reply[44..]);
    (from.u64().unwrap(), from.u32().unwrap())
}

fn create_session(id: u64, sequence: u32, response_bytes_max: u32) -> Vec<u8> {
    create_session_keeping(id, sequence, response_bytes_max, 4000)
}

fn create_session_keeping(id: u64, sequence: u32, response_bytes_max: u32, cached_bytes_max: u32) -> Vec<u8> {
    record(2, |request| {
        let out = request.operation(O::CREATE_SESSION);
        out.u64(id);
        out.words([sequence, 2]);
        out.words([0, 1 << 21, response_bytes_max, cached_bytes_max, 100, 8, 0]);
        out.words([0, 4096, 4096, 0, 2, 1, 0]);
        out.words([0x4000_0000, 1, 1, 0, 0, 0, 0, 0]); // callbacks with AUTH_SYS
    })
}

impl<'e> Client<'e> {
    fn open(export: &'e Export, owner: &[u8]) -> Self {
        let (id, sequence) = exchange(export, owner, 1);
        let reply = answered(export, &create_session(id, sequence, 1 << 21)).unwrap();
        assert_eq!(outcome(&reply), (Status::OK, 1));
        Self { export, id, session: *reply[44..].first_chunk().unwrap(), sequence: 0 }
    }

    /// Another session of the same client, with room for so much.
    fn limited(&self, response_bytes_max: u32, cached_bytes_max: u32) -> Self {
        let call = create_session_keeping(self.id, 2, response_bytes_max, cached_bytes_max);
        let reply = answered(self.export, &call).unwrap();
        assert_eq!(outcome(&reply), (Status::OK, 1));
        Self { session: *reply[44..].first_chunk().unwrap(), sequence: 0, ..*self }
    }

    /// A call on slot 0 whose reply is to be kept; and again.
    fn call_twice(&self, sequence: u32, build: impl Fn(&mut Request<'_>)) -> [Vec<u8>; 2] {
        let call = record(9, |request| {
            let out = request.operation(O::SEQUENCE);
            out.fixed(&self.session);
            out.words([sequence, 0, 7, 1]);
            build(request);
        });
        [(); 2].map(|()| answered(self.export, &call).unwrap())
    }

    /// A call on slot 0 in the right order.
    fn call(&mut self, build: impl FnOnce(&mut Request<'_>)) -> Vec<u8> {
        self.sequence += 1;
        self.call_at(0, self.sequence, build)
    }

    fn call_at(&self, slot: u32, sequence: u32, build: impl FnOnce(&mut Request<'_>)) -> Vec<u8> {
        answered(self.export, &self.record_at(slot, sequence, build)).unwrap()
    }

    fn record_at(&self, slot: u32, sequence: u32, build: impl FnOnce(&mut Request<'_>)) -> Vec<u8> {
        record(9, |request| {
            request.sequence(&self.session, slot, sequence, 7);
            build(request);
        })
    }
}

fn make_directory(request: &mut Request<'_>, name: &[u8]) {
    request.operation(O::PUTROOTFH);
    let out = request.operation(O::CREATE);
    out.u32(2);
    out.opaque(name);
    out.words([0, 0]);
}

/// OPEN of `name` in the root, created if it is not there.
fn open(request: &mut Request<'_>, owner: &[u8], access: u32, deny: u32, name: &[u8]) {
    request.operation(O::PUTROOTFH);
    let out = request.operation(O::OPEN);
    out.words([0, access, deny, 0, 0]);
    out.opaque(owner);
    out.words([1, 0, 0, 0, 0]);
    out.opaque(name);
}

fn write_current(request: &mut Request<'_>, offset: u64, bytes: &[u8]) {
    request.write(&Stateid::CURRENT, offset, 2, bytes.len() as u32);
    request.out.fixed(bytes);
}

#[test]
fn what_is_no_compound_of_nfs_4_is_refused_as_the_rpc_rfc_says() {
    let export = Export::new(1 << 20);
    let refused = |at: usize, value: u32| {
        let mut call = record(5, |request| bare(request, O::PUTROOTFH));
        call[at..at + 4].copy_from_slice(&value.to_be_bytes());
        answered(&export, &call).map(|reply| rpc::decode_reply(&mut Decoder::new(&reply)).unwrap())
    };
    assert_eq!(refused(4, 1), None, "a reply");
    assert_eq!(refused(8, 3), Some((5, Err(Rejection::RpcVersion))));
    assert_eq!(refused(12, 100_005), Some((5, Err(Rejection::ProgramUnavailable))));
    assert_eq!(refused(16, 3), Some((5, Err(Rejection::ProgramMismatch { low: 4, high: 4 }))));
    assert_eq!(refused(20, 0), Some((5, Ok(()))), "the NULL procedure");
    assert_eq!(refused(20, 2), Some((5, Err(Rejection::Call(3)))), "PROC_UNAVAIL");
    assert_eq!(refused(24, 6), Some((5, Err(Rejection::Credential(1)))), "RPCSEC_GSS");
    assert_eq!(refused(28, 401), Some((5, Err(Rejection::Credential(1)))), "a credential above its limit");
    let call = record(6, |request| bare(request, O::PUTROOTFH));
    let header = call.len() - 16;
    for end in header..call.len() - 4 {
        let reply = answered(&export, &call[..end]).unwrap();
        assert_eq!(
            rpc::decode_reply(&mut Decoder::new(&reply)),
            Ok((6, Err(Rejection::Call(4)))),
            "GARBAGE_ARGS at {end}"
        );
    }
    for end in 0..12 {
        assert_eq!(answered(&export, &call[..end]), None, "cut at {end}");
    }
}

#[test]
fn other_minor_versions_and_operations_out_of_place_are_told_so() {
    let export = Export::new(1 << 20);
    let mut call = record(1, |request| bare(request, O::PUTROOTFH));
    let minor_at = call.len() - 12;
    for minor in [0_u32, 2] {
        call[minor_at..minor_at + 4].copy_from_slice(&minor.to_be_bytes());
        assert_eq!(outcome(&answered(&export, &call).unwrap()), (Status::MINOR_VERS_MISMATCH, 0));
    }
    let first = |operations: &[O]| {
        let call = record(1, |request| operations.iter().for_each(|operation| bare(request, *operation)));
        outcome(&answered(&export, &call).unwrap())
    };
    assert_eq!(first(&[]), (Status::OK, 0));
    assert_eq!(first(&[O::PUTROOTFH]), (Status::OP_NOT_IN_SESSION, 1));
    assert_eq!(first(&[O::EXCHANGE_ID, O::PUTROOTFH]), (Status::NOT_ONLY_OP, 1));
    assert_eq!(first(&[O(2)]), (Status::OP_ILLEGAL, 1));
    assert_eq!(first(&[O(59)]), (Status::OP_ILLEGAL, 1));
    let mut client = Client::open(&export, b"client");
    let mut second = |operation: O| outcome(&client.call(|request| bare(request, operation)));
    assert_eq!(second(O::SEQUENCE), (Status::SEQUENCE_POS, 2));
    assert_eq!(second(O::GETFH), (Status::NOFILEHANDLE, 2));
    assert_eq!(second(O::RESTOREFH), (Status::RESTOREFH, 2));
    assert_eq!(second(O::LOCK), (Status::NOTSUPP, 2));
    assert_eq!(second(O(60)), (Status::OP_ILLEGAL, 2));
    assert_eq!(second(O::GETATTR), (Status::BADXDR, 2));
    let many = client.call(|request| (0..OPERATIONS_MAX).for_each(|_| bare(request, O::PUTROOTFH)));
    assert_eq!(outcome(&many), (Status::TOO_MANY_OPS, 1));
}

#[test]
fn a_repeated_request_is_executed_once_and_gets_the_same_reply() {
    let export = Export::new(1 << 20);
    let client = Client::open(&export, b"client");
    let first = client.call_at(3, 1, |request| make_directory(request, b"once"));
    assert_eq!(outcome(&first), (Status::OK, 3));
    assert_eq!(client.call_at(3, 1, |request| make_directory(request, b"once")), first);
    let anew = client.call_at(3, 2, |request| make_directory(request, b"once"));
    assert_eq!(outcome(&anew), (Status::EXIST, 3));
    // A failure is repeated, too, though it would succeed by now.
    let removed = client.call_at(0, 1, |request| {
        request.operation(O::PUTROOTFH);
        request.operation(O::REMOVE).opaque(b"once");
    });
    assert_eq!(outcome(&removed), (Status::OK, 3));
    assert_eq!(client.call_at(3, 2, |request| make_directory(request, b"once")), anew);
}

#[test]
fn a_request_out_of_order_or_without_a_place_is_refused_and_leaves_the_slot() {
    let export = Export::new(1 << 20);
    let mut client = Client::open(&export, b"client");
    let at = |client: &Client<'_>, slot, sequence| outcome(&client.call_at(slot, sequence, |_| ()));
    for sequence in [0, 2, u32::MAX] {
        assert_eq!(at(&client, 0, sequence), (Status::SEQ_MISORDERED, 1));
    }
    assert_eq!(at(&client, 0, 1), (Status::OK, 1));
    assert_eq!(at(&client, 0, 3), (Status::SEQ_MISORDERED, 1));
    assert_eq!(at(&client, 7, 1), (Status::OK, 1));
    assert_eq!(at(&client, 8, 1), (Status::BADSLOT, 1));
    let destroy = record(1, |request| request.operation(O::DESTROY_SESSION).fixed(&client.session));
    assert_eq!(outcome(&answered(&export, &destroy).unwrap()), (Status::OK, 1));
    assert_eq!(outcome(&answered(&export, &destroy).unwrap()), (Status::BADSESSION, 1));
    assert_eq!(at(&client, 0, 2), (Status::BADSESSION, 1));
    client.session = [0; 16];
    assert_eq!(at(&client, 0, 2), (Status::BADSESSION, 1));
}

#[test]
fn several_reads_in_one_compound_bring_each_its_own_bytes() {
    let export = Export::new(1 << 22);
    let mut client = Client::open(&export, b"client");
    let reply = client.call(|request| {
        open(request, b"owner", 3, 0, b"file");
        write_current(request, (1 << 20) - 3, b"before and behind");
        request.read(&Stateid::CURRENT, (1 << 20) - 3, 6);
        request.read(&Stateid::CURRENT, (1 << 20) + 8, 100);
        request.read(&Stateid::CURRENT, (1 << 20) - 5, 4);
    });
    assert_eq!(outcome(&reply), (Status::OK, 7));
    let results: [&[u8]; 3] =
        [b"\0\0\0\0\0\0\0\x06before\0\0", b"\0\0\0\x01\0\0\0\x06behind\0\0", b"\0\0\0\0\0\0\0\x04\0\0be"];
    assert!(reply.ends_with(&results.join(b"\0\0\0\x19\0\0\0\0".as_slice())), "{reply:?}");
}

#[test]
fn a_listing_keeps_to_the_bytes_of_names_that_it_is_asked_for() {
    let export = Export::new(1 << 20);
    let mut client = Client::open(&export, b"client");
    for name in [b"first", b"other", b"third"] {
        client.call(|request| make_directory(request, name));
    }
    // An entry's cookie and name take 20 bytes.
    let mut entries = |dircount: u32| {
        let reply = client.call(|request| {
            bare(request, O::PUTROOTFH);
            let out = request.operation(O::READDIR);
            out.u64(0);
            out.words([0, 0, dircount, 5000, 0]);
        });
        assert_eq!(outcome(&reply), (Status::OK, 3));
        let names = [b"first", b"other", b"third"];
        let count = names.iter().filter(|name| reply.windows(5).any(|window| window == **name)).count();
        (count, reply.ends_with(&[0, 0, 0, 1]))
    };
    assert_eq!(entries(1), (1, false), "one entry in any case");
    assert_eq!(entries(59), (2, false));
    assert_eq!(entries(60), (3, true));
    assert_eq!(entries(0), (3, true), "0 is no limit");
    let mut from = |cookie, verifier| {
        let build = |request: &mut Request<'_>| {
            bare(request, O::PUTROOTFH);
            let out = request.operation(O::READDIR);
            out.words([0, cookie]);
            out.u64(verifier);
            out.words([0, 5000, 0]);
        };
        outcome(&client.call(build)).0
    };
    assert_eq!(from(3, export.instance), Status::OK);
    assert_eq!(from(3, export.instance + 1), Status::NOT_SAME);
    assert_eq!(from(2, export.instance), Status::BAD_COOKIE);
}

#[test]
fn a_client_that_starts_again_takes_its_own_place() {
    let export = Export::new(1 << 20);
    let mut old = Client::open(&export, b"client");
    old.call(|request| open(request, b"owner", 1, 2, b"denied"));
    let (same, _) = exchange(&export, b"client", 1);
    assert_eq!(same, old.id);
    let (id, sequence) = exchange(&export, b"client", 2);
    assert_ne!(id, old.id);
    assert_eq!(outcome(&old.call(|_| ())), (Status::OK, 1), "until the new one is confirmed");
    let call = create_session(id, sequence, 1 << 21);
    let created = answered(&export, &call).unwrap();
    assert_eq!(answered(&export, &call), Some(created.clone()), "the repetition makes no second session");
    assert_eq!(
        outcome(&answered(&export, &create_session(id, sequence + 2, 4096)).unwrap()),
        (Status::SEQ_MISORDERED, 1)
    );
    assert_eq!(outcome(&answered(&export, &create_session(old.id, 2, 4096)).unwrap()), (Status::STALE_CLIENTID, 1));
    assert_eq!(outcome(&old.call(|_| ())), (Status::BADSESSION, 1));
    let mut new = Client { export: &export, id, session: *created[44..].first_chunk().unwrap(), sequence: 0 };
    assert_eq!(outcome(&new.call(|request| open(request, b"owner", 2, 0, b"denied"))), (Status::OK, 3));
    let destroy =
        |id| outcome(&answered(&export, &record(1, |request| request.operation(O::DESTROY_CLIENTID).u64(id))).unwrap());
    assert_eq!(destroy(id), (Status::CLIENTID_BUSY, 1));
    assert_eq!(destroy(old.id), (Status::STALE_CLIENTID, 1));
    let complete = |request: &mut Request<'_>| request.operation(O::RECLAIM_COMPLETE).bool(false);
    assert_eq!(outcome(&new.call(complete)), (Status::OK, 2));
    assert_eq!(outcome(&new.call(complete)), (Status::COMPLETE_ALREADY, 2));
}

#[test]
fn one_client_more_than_the_limit_has_to_wait() {
    let export = Export::new(1 << 20);
    for number in 0..CLIENTS_MAX {
        exchange(&export, &number.to_be_bytes(), 1);
    }
    let call = record(1, |request| {
        let out = request.operation(O::EXCHANGE_ID);
        out.u64(1);
        out.opaque(b"one more");
        out.words([0, 0, 0]);
    });
    assert_eq!(outcome(&answered(&export, &call).unwrap()), (Status::DELAY, 1));
}

#[test]
fn what_one_owner_denies_another_does_not_get() {
    let export = Export::new(1 << 20);
    let mut client = Client::open(&export, b"client");
    let mut opened =
        |owner: &[u8], access, deny| outcome(&client.call(|request| open(request, owner, access, deny, b"file"))).0;
    assert_eq!(opened(b"first", 3, 2), Status::OK);
    assert_eq!(opened(b"second", 2, 0), Status::SHARE_DENIED);
    assert_eq!(opened(b"second", 1, 1), Status::SHARE_DENIED);
    assert_eq!(opened(b"second", 1, 0), Status::OK);
    assert_eq!(opened(b"second", 0, 0), Status::INVAL);
    assert_eq!(opened(b"first", 1, 0), Status::OK);
    let wrong = client.call(|request| {
        open(request, b"second", 1, 0, b"file");
        write_current(request, 0, b"x");
    });
    assert_eq!(outcome(&wrong), (Status::OPENMODE, 4));
    let downgraded = client.call(|request| {
        open(request, b"first", 3, 2, b"file");
        let out = request.operation(O::OPEN_DOWNGRADE);
        Stateid::CURRENT.encode(out);
        out.words([0, 1, 0]);
        write_current(request, 0, b"x");
    });
    assert_eq!(outcome(&downgraded), (Status::OPENMODE, 5));
    let closed = client.call(|request| {
        open(request, b"first", 1, 0, b"file");
        let out = request.operation(O::CLOSE);
        out.u32(0);
        Stateid::CURRENT.encode(out);
        request.read(&Stateid::CURRENT, 0, 1);
    });
    assert_eq!(outcome(&closed), (Status::BAD_STATEID, 5));
}

#[test]
fn handles_of_nobody_of_another_instance_and_of_removed_files_are_told_apart() {
    let export = Export::new(1 << 20);
    let mut client = Client::open(&export, b"client");
    let mut put = |handle: &[u8]| outcome(&client.call(|request| request.putfh(handle))).0;
    let root = Handle { instance: export.instance, number: 2 };
    assert_eq!(put(&root.bytes()), Status::OK);
    assert_eq!(put(b"short"), Status::BADHANDLE);
    assert_eq!(put(&Handle { instance: export.instance ^ 1, ..root }.bytes()), Status::STALE);
    assert_eq!(put(&Handle { number: 77, ..root }.bytes()), Status::STALE);
    assert_eq!(put(&[0; 129]), Status::BADXDR);
}

#[test]
fn a_failed_setattr_says_that_nothing_was_set() {
    let export = Export::new(1 << 20);
    let mut client = Client::open(&export, b"client");
    let reply = client.call(|request| {
        request.operation(O::PUTROOTFH);
        let out = request.operation(O::SETATTR);
        Stateid::ANONYMOUS.encode(out);
        Bitmap::of(&[attribute::SIZE]).encode(out);
        out.opaque(&[0; 8]);
    });
    assert_eq!(outcome(&reply), (Status::ISDIR, 3));
    assert!(reply.ends_with(&[0, 0, 0, 34, 0, 0, 0, 21, 0, 0, 0, 0]));
}

/// Whether a reply is one: decodes to its end as far as its header goes, and its status is that of its last result.
fn check_reply(reply: &[u8]) {
    let mut from = Decoder::new(reply);
    let (_, accepted) = rpc::decode_reply(&mut from).unwrap();
    if accepted == Ok(()) && from.left() > 0 {
        let (status, _tag, count) = (from.u32().unwrap(), from.opaque(1024).unwrap(), from.u32().unwrap());
        assert!(count as usize <= OPERATIONS_MAX + 1);
        assert!(count > 0 || status == 0 || Status(status) == Status::MINOR_VERS_MISMATCH);
    }
    assert_eq!(reply.len() % 4, 0);
}

#[test]
fn a_compound_cut_at_any_byte_is_answered() {
    let export = Export::new(1 << 20);
    let mut client = Client::open(&export, b"client");
    for call in every_operation(&mut client) {
        for end in 24..call.len() {
            check_reply(&answered(&export, &call[..end]).unwrap());
        }
        answered(&export, &call).unwrap();
    }
}

#[test]
fn malformed_compounds_are_answered_or_end_the_connection() {
    for seed in 0..60_u64 {
        let export = Export::new(1 << 20);
        let mut state = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 16) as usize % below
        };
        let mut client = Client::open(&export, b"client");
        for round in 0..40 {
            for mut call in every_operation(&mut client) {
                for _ in 0..random(4) {
                    let at = random(call.len() / 4) * 4;
                    match random(4) {
                        0 => call[at..at + 4].copy_from_slice(&(random(64) as u32).to_be_bytes()),
                        1 => call[at..at + 4].copy_from_slice(&[0xff; 4]),
                        2 => call[at + random(4)] ^= 1 << random(8),
                        _ => call.copy_within(at.., random(at / 4 + 1) * 4),
                    }
                }
                if let Some(reply) = answered(&export, &call) {
                    check_reply(&reply);
                }
            }
            // The session is as good as before, unless a malformed call has destroyed it.
            let status = outcome(&client.call(|request| bare(request, O::PUTROOTFH))).0;
            let lost = [Status::SEQ_MISORDERED, Status::BADSESSION];
            assert!(status == Status::OK || lost.contains(&status), "seed {seed} round {round}: {status}");
            if status != Status::OK {
                client = Client::open(&export, &[round]);
            }
        }
    }
}
