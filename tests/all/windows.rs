//! Where received bytes lie: nothing is moved in a stream of long records, however the reads cut it.

use sealane_proto::limits::{
    BUFFER_BIG_BYTES, BUFFER_SMALL_BYTES, RECORD_HEADER_BYTES, RECORD_PLAIN_BYTES_MAX, RECORD_WIRE_BYTES_MAX,
};
use sealane_proto::tls::{Inbound, Pieces, Progress, Role, Sealer, Suite, TrafficKey, Version, Window};

use crate::support::bytes::Random;

struct Count(usize, usize);

impl Pieces for Count {
    fn push(&mut self, range: std::ops::Range<usize>) -> bool {
        self.0 += range.len();
        self.1 += 1;
        true
    }

    fn grow_last(&mut self, _: usize) {
        panic!("a long record was shifted");
    }
}

fn key() -> TrafficKey {
    TrafficKey::new(Version::Tls13, Suite::Aes128Gcm, &[7; 16], &[9; 12], 0).unwrap()
}

/// A stream of full records, as wire bytes.
fn stream(records: usize) -> Vec<u8> {
    let mut sealer = Sealer::new(&key());
    let stride = sealer.shape().stride();
    let mut wire = vec![0; records * stride];
    assert_eq!(sealer.seal(&mut wire, records * RECORD_PLAIN_BYTES_MAX).unwrap(), records * stride);
    wire
}

#[test]
fn a_record_that_a_read_has_cut_stays_where_it_is() {
    let wire = stream(2000);
    for seed in 0..20 {
        let mut random = Random::new(seed);
        let mut inbound = Inbound::new(Role::Client, &key());
        let mut window = Window::default();
        let mut buffer = vec![0; BUFFER_BIG_BYTES];
        let (mut rest, mut plain, mut wraps) = (&wire[..], 0, 0);
        while !rest.is_empty() {
            let held = window.held();
            let before = buffer[held.clone()].to_vec();
            let plan = window.plan(&mut buffer);
            if before.len() >= RECORD_HEADER_BYTES {
                assert_eq!(window.held(), held, "seed {seed}: {} bytes were moved", before.len());
            }
            assert!(plan.near.end <= buffer.len() && (plan.front.is_empty() || plan.front.end <= held.start));
            assert!(
                plan.near.len() + plan.front.len() > RECORD_WIRE_BYTES_MAX,
                "seed {seed}: a read for little: {plan:?}"
            );
            wraps += usize::from(!plan.front.is_empty());
            // Mostly whole reads, as under load, and some short ones.
            let room = plan.near.len() + plan.front.len();
            let count = if random.below(3) == 0 { 1 + random.below(room) } else { room }.min(rest.len());
            let near = count.min(plan.near.len());
            buffer[plan.near.start..plan.near.start + near].copy_from_slice(&rest[..near]);
            buffer[plan.front.start..plan.front.start + count - near].copy_from_slice(&rest[near..count]);
            window.filled(count);
            rest = &rest[count..];
            let mut pieces = Count(0, 0);
            loop {
                match inbound.advance(&mut buffer, window.cursor(), &mut pieces).unwrap() {
                    Progress::NeedBytes if window.next_stretch() => {}
                    Progress::NeedBytes => break,
                    other => panic!("{other:?}"),
                }
            }
            plain += pieces.0;
        }
        assert_eq!(plain, 2000 * RECORD_PLAIN_BYTES_MAX, "seed {seed}");
        assert!(wraps > 5, "seed {seed}: {wraps} wraps");
    }
}

/// A buffer that holds one record: whatever the reads cut, there is room for the rest of the record that has begun.
#[test]
fn a_small_buffer_has_room_for_every_record_wherever_it_begins() {
    for seed in 0..50 {
        let mut random = Random::new(seed);
        let mut sealer = Sealer::new(&key());
        let mut wire = Vec::new();
        let mut sent = 0;
        for _ in 0..300 {
            let bytes =
                if random.below(2) == 0 { RECORD_PLAIN_BYTES_MAX } else { random.length(RECORD_PLAIN_BYTES_MAX) };
            let mut record = vec![0; sealer.shape().stride()];
            let length = sealer.seal(&mut record, bytes).unwrap();
            wire.extend_from_slice(&record[..length]);
            sent += bytes;
        }
        let mut inbound = Inbound::new(Role::Client, &key());
        let mut window = Window::default();
        let mut buffer = vec![0; BUFFER_SMALL_BYTES];
        let (mut rest, mut plain) = (&wire[..], 0);
        while !rest.is_empty() {
            let plan = window.plan(&mut buffer);
            let held = window.held();
            assert!(!plan.near.is_empty() && plan.near.start == held.end, "seed {seed}: {held:?} {plan:?}");
            let room = plan.near.len() + plan.front.len();
            let count = if random.below(4) == 0 { room } else { 1 + random.below(room) }.min(rest.len());
            let near = count.min(plan.near.len());
            buffer[plan.near.start..plan.near.start + near].copy_from_slice(&rest[..near]);
            buffer[plan.front.start..plan.front.start + count - near].copy_from_slice(&rest[near..count]);
            window.filled(count);
            rest = &rest[count..];
            let mut pieces = Sum::default();
            loop {
                match inbound.advance(&mut buffer, window.cursor(), &mut pieces).unwrap() {
                    Progress::NeedBytes if window.next_stretch() => {}
                    Progress::NeedBytes => break,
                    other => panic!("{other:?}"),
                }
            }
            plain += pieces.bytes;
        }
        assert_eq!(plain, sent, "seed {seed}");
    }
}

/// Also of short records, which are shifted; and where the last piece ends.
#[derive(Default)]
struct Sum {
    bytes: usize,
    end: usize,
}

impl Pieces for Sum {
    fn push(&mut self, range: std::ops::Range<usize>) -> bool {
        self.bytes += range.len();
        self.end = range.end;
        true
    }

    fn grow_last(&mut self, end: usize) {
        self.bytes += end - self.end;
        self.end = end;
    }
}
