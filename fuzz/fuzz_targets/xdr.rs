//! The peers' XDR, records and server.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sealane_selftest::fuzzing::xdr(data));
