//! The server's end of a handshake, with arbitrary bytes.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sealane_relay::fuzzing::handshake_server(data));
