//! TLS records opened, from a script of what their sender did.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sealane_proto::fuzzing::open(data));
