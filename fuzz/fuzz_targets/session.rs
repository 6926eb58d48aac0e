//! A whole session, over loopback sockets, from a script of what both ends do.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sealane_relay::fuzzing::session(data));
