//! RPC records of both directions of a connection.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sealane_proto::fuzzing::streams(data));
