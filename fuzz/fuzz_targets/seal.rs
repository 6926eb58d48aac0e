//! TLS records sealed in place.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sealane_proto::fuzzing::seal(data));
