//! OCSP responses and certificates, of whoever made them.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sealane_trust::fuzzing::ocsp(data));
