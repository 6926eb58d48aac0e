//! Replies that must fit: into the session's responses, and into the slot that is to keep them.

use super::*;

#[test]
fn the_reply_to_a_read_is_not_kept_and_its_repetition_is_told_so() {
    let export = Export::new(1 << 20);
    let mut client = Client::open(&export, b"client");
    client.call(|request| {
        open(request, b"owner", 3, 0, b"file");
        write_current(request, 0, b"payload");
    });
    let read = |request: &mut Request<'_>| {
        open(request, b"owner", 3, 0, b"file");
        request.read(&Stateid::CURRENT, 2, 100);
    };
    let reply = client.call(read);
    assert_eq!(outcome(&reply), (Status::OK, 4));
    assert!(reply.ends_with(b"\0\0\0\x01\0\0\0\x05yload\0\0\0"));
    assert_eq!(outcome(&client.call_at(0, client.sequence, read)), (Status::RETRY_UNCACHED_REP, 2));
}

#[test]
fn what_was_removed_behind_a_read_whose_reply_is_to_be_kept_is_removed_once() {
    let export = Export::new(1 << 20);
    let mut client = Client::open(&export, b"client");
    client.call(|request| {
        open(request, b"owner", 3, 0, b"file");
        write_current(request, 0, &[7; 4096]);
    });
    let removal = |count| {
        move |request: &mut Request<'_>| {
            open(request, b"owner", 3, 0, b"file");
            request.read(&Stateid::CURRENT, 0, count);
            bare(request, O::PUTROOTFH);
            request.operation(O::REMOVE).opaque(b"file");
        }
    };
    let twice = |sequence, count| {
        let [reply, again] = client.call_twice(sequence, removal(count));
        assert!(reply == again, "{count} bytes: {:?}, then {:?}", outcome(&reply), outcome(&again));
        assert!(reply.len() <= 4000, "{count} bytes");
        (outcome(&reply), reply.windows(8).any(|window| window == [7; 8]))
    };
    // The session keeps 4,000 bytes; 196 of them are not the payload's.
    assert_eq!(twice(2, 3808), ((Status::REP_TOO_BIG_TO_CACHE, 6), true), "by REMOVE");
    assert_eq!(twice(3, 4000), ((Status::REP_TOO_BIG_TO_CACHE, 4), false), "by READ");
    assert_eq!(twice(4, 3804), ((Status::OK, 6), true));
    assert_eq!(twice(5, 3804), ((Status::OK, 6), false), "OPEN has made another");
}

#[test]
fn what_is_refused_for_want_of_room_is_not_done() {
    for limit in (0..300).step_by(4) {
        let export = Export::new(1 << 20);
        let mut client = Client::open(&export, b"client");
        let [reply, _] = client.limited(1 << 21, limit).call_twice(1, |request| make_directory(request, b"once"));
        let look_up = client.call(|request| {
            bare(request, O::PUTROOTFH);
            request.operation(O::LOOKUP).opaque(b"once");
        });
        assert_eq!(outcome(&reply).0 == Status::OK, outcome(&look_up).0 == Status::OK, "{limit}");
        assert_eq!(outcome(&reply).0 == Status::OK, limit >= 128, "{limit}");
    }
}

#[test]
fn a_reply_longer_than_the_session_takes_is_refused_without_effect() {
    let export = Export::new(1 << 20);
    let (id, sequence) = exchange(&export, b"client", 1);
    let reply = answered(&export, &create_session(id, sequence, 1000)).unwrap();
    let mut client = Client { export: &export, id, session: *reply[44..].first_chunk().unwrap(), sequence: 0 };
    let mut read = |count| {
        client.call(|request| {
            open(request, b"owner", 3, 0, b"file");
            write_current(request, 5000, b"x");
            request.read(&Stateid::CURRENT, 0, count);
        })
    };
    assert_eq!(outcome(&read(300)), (Status::OK, 5));
    let reply = read(5001);
    assert_eq!(outcome(&reply), (Status::REP_TOO_BIG, 5));
    assert!(reply.len() < 1000 && reply.ends_with(&[0, 0, 0, 25, 0, 0, 0x27, 0x52]), "nothing is left of the payload");
    assert_eq!(outcome(&answered(&export, &create_session(id, sequence + 1, 100)).unwrap()), (Status::TOOSMALL, 1));
}

/// MODE, OWNER and TIME_MODIFY_SET.
fn settings(out: &mut Encoder) {
    Bitmap::of(&[attribute::MODE, attribute::OWNER, attribute::TIME_MODIFY_SET]).encode(out);
    let mut values = Encoder::new();
    values.u32(0o600);
    values.opaque(b"1000");
    values.words([1, 0, 7, 8]);
    out.opaque(values.bytes());
}

fn file_written_read_linked(request: &mut Request<'_>) {
    open(request, b"owner", 3, 0, b"file");
    write_current(request, 4090, b"some bytes");
    request.read(&Stateid::CURRENT, 4000, 200);
    let out = request.operation(O::SETATTR);
    Stateid::CURRENT.encode(out);
    settings(out);
    bare(request, O::SAVEFH);
    bare(request, O::PUTROOTFH);
    request.operation(O::LINK).opaque(b"link");
}

fn link_renamed_listed_removed(request: &mut Request<'_>) {
    bare(request, O::PUTROOTFH);
    bare(request, O::SAVEFH);
    let out = request.operation(O::RENAME);
    out.opaque(b"link");
    out.opaque(b"renamed");
    let out = request.operation(O::READDIR);
    out.u64(0);
    out.words([0, 0, 500, 5000]);
    SUPPORTED.encode(out);
    SUPPORTED.encode(request.operation(O::GETATTR));
    request.operation(O::REMOVE).opaque(b"renamed");
}

fn symbolic_link(request: &mut Request<'_>) {
    bare(request, O::PUTROOTFH);
    let out = request.operation(O::CREATE);
    out.u32(5);
    out.opaque(b"target");
    out.opaque(b"symbolic");
    settings(out);
    bare(request, O::READLINK);
    request.operation(O::ACCESS).u32(0x3f);
    request.operation(O::SECINFO_NO_NAME).u32(0);
}

fn names_looked_up(request: &mut Request<'_>) {
    bare(request, O::PUTROOTFH);
    request.operation(O::LOOKUP).opaque(b"directory");
    bare(request, O::LOOKUPP);
    let out = request.operation(O::VERIFY);
    Bitmap::of(&[attribute::TYPE]).encode(out);
    out.opaque(&[0, 0, 0, 2]);
    bare(request, O::GETFH);
    request.operation(O::SECINFO).opaque(b"file");
}

fn file_committed_and_closed(request: &mut Request<'_>) {
    open(request, b"owner", 3, 0, b"file");
    let out = request.operation(O::COMMIT);
    out.u64(0);
    out.u32(0);
    let out = request.operation(O::OPEN_DOWNGRADE);
    Stateid::CURRENT.encode(out);
    out.words([0, 1, 0]);
    let out = request.operation(O::CLOSE);
    out.u32(0);
    Stateid::CURRENT.encode(out);
}

/// Calls with nearly every operation, all of them lawful in this order; again they are not all.
const EVERY_OPERATION: [fn(&mut Request<'_>); 7] = [
    |request| make_directory(request, b"directory"),
    file_written_read_linked,
    link_renamed_listed_removed,
    symbolic_link,
    names_looked_up,
    file_committed_and_closed,
    |request| {
        let out = request.operation(O::TEST_STATEID);
        out.u32(1);
        Stateid::ANONYMOUS.encode(out);
    },
];

pub(super) fn every_operation(client: &mut Client<'_>) -> Vec<Vec<u8>> {
    let mut record_of = |build: &fn(&mut Request<'_>)| {
        client.sequence += 1;
        client.record_at(0, client.sequence, build)
    };
    EVERY_OPERATION.iter().map(|build| record_of(build)).collect()
}

/// The replies to the `number`th of these calls and to its repetition, in a session of so much room.
fn with_room(number: usize, response_bytes_max: u32, cached_bytes_max: u32) -> [Vec<u8>; 2] {
    let export = Export::new(1 << 20);
    let mut client = Client::open(&export, b"client");
    for before in &EVERY_OPERATION[..number] {
        assert_eq!(outcome(&client.call(before)).0, Status::OK);
    }
    client.limited(response_bytes_max, cached_bytes_max).call_twice(1, EVERY_OPERATION[number])
}

#[test]
fn a_reply_that_was_to_be_kept_is_repeated_whatever_the_room() {
    for number in 0..EVERY_OPERATION.len() {
        let [full, again] = with_room(number, 1 << 21, 4096);
        assert!(outcome(&full).0 == Status::OK && full == again, "call {number}");
        for limit in (0..full.len() + 40).step_by(4) {
            let [reply, again] = with_room(number, 1 << 21, limit as u32);
            assert!(reply == again, "call {number} in {limit}");
            let (status, results) = outcome(&reply);
            // A result's longest length is not always its length.
            let expected = if limit < full.len() { Status::REP_TOO_BIG_TO_CACHE } else { Status::OK };
            assert!(status == expected || (full.len()..full.len() + 8).contains(&limit), "call {number} in {limit}");
            assert!(reply.len() <= limit || results == 1, "call {number} in {limit}");
        }
    }
}

#[test]
fn no_reply_is_longer_than_the_session_takes() {
    for number in 0..EVERY_OPERATION.len() {
        let [full, _] = with_room(number, 1 << 21, 4096);
        for limit in (512..full.len() + 40).step_by(4) {
            let [reply, again] = with_room(number, limit as u32, 4096);
            assert!(reply == again, "call {number} in {limit}");
            let expected = if limit < full.len() { Status::REP_TOO_BIG } else { Status::OK };
            let status = outcome(&reply).0;
            assert!(status == expected || (full.len()..full.len() + 8).contains(&limit), "call {number} in {limit}");
            assert!(reply.len() <= limit, "call {number} in {limit}");
        }
    }
}

#[test]
fn every_operation_is_executed() {
    let export = Export::new(1 << 20);
    let mut client = Client::open(&export, b"client");
    for (number, call) in every_operation(&mut client).iter().enumerate() {
        assert_eq!(outcome(&answered(&export, call).unwrap()).0, Status::OK, "call {number}");
    }
}
