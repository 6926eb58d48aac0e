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
