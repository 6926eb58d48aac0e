//! Every input of the fuzz corpus, through the same functions that the fuzz targets run, and what they have found.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sealane_cli::fuzzing as cli;
use sealane_proto::fuzzing as proto;
use sealane_relay::fuzzing as relay;
use sealane_selftest::fuzzing as selftest;
use sealane_trust::fuzzing as trust;

use crate::support::process::now;

type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 12] = [
    ("command_line", cli::command_line),
    ("handshake", relay::handshake),
    ("handshake_client", relay::handshake_client),
    ("handshake_server", relay::handshake_server),
    ("ocsp", trust::ocsp),
    ("open", proto::open),
    ("records", proto::records),
    ("seal", proto::seal),
    ("session", relay::session),
    ("streams", proto::streams),
    ("stunnel_file", cli::stunnel_file),
    ("xdr", selftest::xdr),
];

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn every_target_is_replayed_and_has_a_dictionary() {
    let targets: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
    let stems = |directory, ending: &str| {
        let names = names_in(&fuzz().join(directory)).into_iter();
        names.map(|name| name.strip_suffix(ending).unwrap_or(&name).to_string()).collect::<Vec<_>>()
    };
    assert_eq!(stems("fuzz_targets", ".rs"), targets);
    assert_eq!(stems("dictionaries", ".dict"), targets);
    assert_eq!(stems("corpus", ""), targets);
}

fn replay(target: &str) {
    let (_, run) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let directory = fuzz().join("corpus").join(target);
    let names = names_in(&directory);
    assert!(!names.is_empty(), "{} is empty", directory.display());
    let mut failed = Vec::new();
    for name in names {
        let file = directory.join(name);
        let input = std::fs::read(&file).unwrap();
        if catch_unwind(AssertUnwindSafe(|| run(&input))).is_err() {
            eprintln!("failed: {}", file.display());
            failed.push(file);
        }
    }
    assert!(failed.is_empty(), "failed with {failed:?}");
}

#[test]
fn handshakes_agree_or_fail_at_both_ends() {
    replay("handshake");
}

#[test]
fn a_client_survives_any_server() {
    replay("handshake_client");
}

#[test]
fn a_server_survives_any_client() {
    replay("handshake_server");
}

#[test]
fn records_open_to_what_was_sent_however_they_come() {
    replay("open");
}

#[test]
fn record_boundaries_are_found_however_the_stream_is_cut() {
    replay("records");
}

#[test]
fn nobody_without_the_key_makes_an_answer_about_a_certificate() {
    replay("ocsp");
}

#[test]
fn what_is_sealed_opens() {
    replay("seal");
}

#[test]
fn sessions_deliver_what_was_said_or_fail() {
    replay("session");
}

#[test]
fn both_directions_are_understood_however_they_are_delivered() {
    replay("streams");
}

#[test]
fn every_command_line_is_refused_in_one_line_or_keeps_its_limits() {
    replay("command_line");
}

#[test]
fn every_file_of_stunnels_is_refused_in_one_line_or_becomes_command_lines() {
    replay("stunnel_file");
}

#[test]
fn the_peers_answer_every_call_and_keep_what_was_written() {
    replay("xdr");
}

/// rustls keeps a place in the input, and panicked when it was shown none to look for its alert.
#[test]
fn what_is_no_record_behind_half_a_handshake_message_is_an_error_and_no_panic() {
    relay::handshake_client(&[5, 0, 28, 22, 3, 1, 0, 4, 0, 51, 0, 2, 0, 23, 136]);
    relay::handshake_server(&[
        172, 0, 1, 22, 3, 75, 0, 11, 0, 2, 1, 0, 255, 101, 111, 101, 101, 101, 101, 0, 1, 4, 0, 10,
    ]);
}

/// A fragment of the server's hello took the place of the alert behind it.
#[test]
fn an_alert_behind_a_flight_that_was_queued_is_sent_behind_it() {
    relay::handshake(&[0x10, 2, 4, 5, 1, 0xf5]);
}

/// What is said of an expired certificate tells the time, and a flight that comes in other pieces may be judged a second later.
#[test]
fn an_expired_certificate_is_refused_alike_in_this_second_and_the_next() {
    let flight = include_bytes!("../inputs/expired-certificate.bin");
    let started = now();
    while now() - started < Duration::from_millis(2500) {
        relay::handshake_server(flight);
    }
}

/// The model of the target took a client's new hello for a message of an unknown kind.
#[test]
fn a_client_that_says_hello_again_asks_for_a_renegotiation() {
    proto::open(&[0x0d, 0, 0x28, 0x1f, 0, 0, 0, 0x21, 0x3f, 4, 0, 0xa7, 0x21, 1, 0, 0, 0, 0, 0, 0, 0x7a, 0, 0]);
}
