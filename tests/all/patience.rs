//! The limits as they are, in real time. Too long for every day: `tests/soak/run patience` runs these.

use std::io::{Read, Write};
use std::time::Duration;

use crate::clocks::exchange;
use crate::support::bytes::{call, reply};
use crate::support::process::now;
use crate::support::sealane::{DRIVERS, Joined, expect_reset, join};

const TLS13: &rustls::SupportedProtocolVersion = &rustls::version::TLS13;
/// The slowest answer of a server that is well: a COMMIT of much data.
const COMMIT: Duration = Duration::from_secs(100);
/// Longer than every limit (`--silence-timeout`, `--stall-timeout`: 180 s).
const IDLE: Duration = Duration::from_secs(200);
const SILENCE: Duration = Duration::from_secs(180);
/// How much later than its limit a reset may come.
const LATE: Duration = Duration::from_secs(10);

fn a_commit_takes_its_time(driver: &str) {
    let Joined { sealane, mut client, mut peer, .. } = join(driver, TLS13, &[]);
    let text = call(1, b"COMMIT");
    client.write_all(&text).unwrap();
    assert_eq!(peer.read(text.len()), text);
    std::thread::sleep(COMMIT);
    let answer = reply(1, b"done");
    peer.send(&answer);
    client.read_exact(&mut vec![0; answer.len()]).unwrap();
    exchange(&mut client, &mut peer, 2);
    assert_eq!(sealane.process.count("closed:"), 0, "{driver}: {}", sealane.process.output());
}

fn a_mount_idles(driver: &str) {
    let Joined { sealane, mut client, mut peer, .. } = join(driver, TLS13, &[]);
    exchange(&mut client, &mut peer, 1);
    std::thread::sleep(IDLE);
    exchange(&mut client, &mut peer, 2);
    assert_eq!(sealane.process.count("closed:"), 0, "{driver}: {}", sealane.process.output());
}

fn a_server_is_silent(driver: &str) {
    let Joined { sealane: _sealane, mut client, mut peer, .. } = join(driver, TLS13, &[]);
    exchange(&mut client, &mut peer, 1);
    let text = call(2, b"a call");
    client.write_all(&text).unwrap();
    assert_eq!(peer.read(text.len()), text);
    let began = now();
    expect_reset(&mut client, SILENCE + LATE);
    let after = now() - began;
    assert!(after + Duration::from_secs(1) >= SILENCE, "{driver}: reset after {after:?}");
}

#[test]
#[ignore = "takes 200 s: tests/soak/run patience"]
fn an_idle_mount_and_a_slow_commit_live_and_a_silent_server_dies_with_the_limits_as_they_are() {
    std::thread::scope(|scope| {
        for driver in DRIVERS {
            for scene in [a_commit_takes_its_time, a_mount_idles, a_server_is_silent] {
                scope.spawn(move || scene(driver));
            }
        }
    });
}
