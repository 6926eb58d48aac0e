use sealane_proto::rpc::RecordScanner;

use super::*;

const SIZE: u32 = 4096;
const KINDS: [Kind; 3] = [Kind::Getattr, Kind::Read, Kind::Write];

fn calls() -> Vec<u8> {
    let mut stream = Vec::new();
    for (xid, kind) in (7..).zip(KINDS) {
        put_call(&mut stream, kind, xid, 0, SIZE);
        if kind == Kind::Write {
            stream.resize(stream.len() + SIZE as usize, 0xaa);
        }
    }
    stream
}

fn expected() -> Vec<Call> {
    let read_bytes = |kind| if kind == Kind::Read { SIZE } else { 0 };
    (7..).zip(KINDS).map(|(xid, kind)| Call { kind, xid, read_bytes: read_bytes(kind) }).collect()
}

#[test]
fn every_way_of_cutting_the_calls_gives_the_same_answer() {
    let stream = calls();
    for step in 1..=stream.len() {
        let mut parser = Calls::new();
        let mut found = Vec::new();
        for piece in stream.chunks(step) {
            parser.advance(piece, |call| found.push(call)).unwrap();
        }
        assert_eq!(found, expected(), "step {step}");
    }
}

#[test]
fn a_proxy_sees_calls_and_replies_in_whole_records() {
    let stream = calls();
    let mut scanner = RecordScanner::new();
    assert_eq!(scanner.advance(&stream), Ok(3));
    assert_eq!((scanner.calls(), scanner.replies(), scanner.at_boundary()), (3, 0, true));

    let mut replies = Vec::new();
    for call in expected() {
        put_reply(&mut replies, &call);
        replies.resize(replies.len() + call.read_bytes as usize, 0xaa);
    }
    let mut scanner = RecordScanner::new();
    assert_eq!(scanner.advance(&replies), Ok(3));
    assert_eq!((scanner.calls(), scanner.replies_ended(), scanner.at_boundary()), (0, 3, true));
    for step in [1, 2, 3, 5, 8, 100, replies.len()] {
        let mut parser = Replies::new();
        let mut xids = Vec::new();
        for piece in replies.chunks(step) {
            parser.advance(piece, |xid| xids.push(xid)).unwrap();
        }
        assert_eq!(xids, [7, 8, 9], "step {step}");
    }
}

#[test]
fn what_is_not_looked_at_counts_all_the_same() {
    let mut replies = Vec::new();
    for call in expected() {
        put_reply(&mut replies, &call);
        replies.resize(replies.len() + call.read_bytes as usize, 0xaa);
    }
    for (step, skipped) in [(1, 1), (8, 3), (13, 4096), (200, 1000)] {
        let (mut parser, mut xids, mut rest) = (Replies::new(), Vec::new(), replies.as_slice());
        while !rest.is_empty() {
            let (looked, behind) = rest.split_at(step.min(rest.len()));
            parser.advance(looked, |xid| xids.push(xid)).unwrap();
            let count = parser.left().min(skipped);
            parser.skip(count, |xid| xids.push(xid)).unwrap();
            rest = &behind[count..];
        }
        assert_eq!(xids, [7, 8, 9], "step {step}");
        assert_eq!(parser.skip(1, |_| ()), Err(NotOurs));
    }
}

#[test]
fn foreign_bytes_are_refused() {
    let mut parser = Calls::new();
    assert_eq!(parser.advance(b"GET / HTTP/1.1\r\n", |_| ()), Err(NotOurs));
    let mut reply = Vec::new();
    put_reply(&mut reply, &Call { kind: Kind::Getattr, xid: 1, read_bytes: 0 });
    assert_eq!(Calls::new().advance(&reply, |_| ()), Err(NotOurs));
}

#[test]
fn payloads_are_compared_wherever_the_stream_is_cut() {
    const BYTES: usize = 400;
    let (mut calls, mut replies) = (Vec::new(), Vec::new());
    for xid in [1, 2] {
        put_call(&mut calls, Kind::Write, xid, 0, BYTES as u32);
        pattern::put(&mut calls, xid, BYTES);
        put_call(&mut calls, Kind::Getattr, xid, 0, 0);
        put_reply(&mut replies, &Call { kind: Kind::Read, xid, read_bytes: BYTES as u32 });
        pattern::put(&mut replies, xid, BYTES);
    }
    let look_at_calls = |parts: [&[u8]; 2]| {
        let (mut stream, mut found) = (Calls::new(), 0);
        parts.iter().try_for_each(|part| stream.advance_and_compare(part, |_| found += 1)).map(|()| found)
    };
    let look_at_replies = |parts: [&[u8]; 2]| {
        let (mut stream, mut found) = (Replies::new(), 0);
        parts.iter().try_for_each(|part| stream.advance_and_compare(part, |_| BYTES, |_| found += 1)).map(|()| found)
    };
    for cut in 0..=calls.len() {
        assert_eq!(look_at_calls(calls.split_at(cut).into()).unwrap(), 4, "{cut}");
    }
    for cut in 0..=replies.len() {
        assert_eq!(look_at_replies(replies.split_at(cut).into()).unwrap(), 2, "{cut}");
    }
    for at in [WRITE_PAYLOAD_AT, WRITE_PAYLOAD_AT + BYTES - 1, calls.len() - CALL_BYTES_MIN - 1] {
        let mut spoiled = calls.clone();
        spoiled[at] ^= 0x80;
        assert!(look_at_calls([&spoiled, &[]]).is_err(), "{at}");
    }
    let last = replies.len() - 1;
    replies[last] ^= 0x80;
    assert!(look_at_replies([&replies, &[]]).is_err());
}
