//! From a file of stunnel's to configurations.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sealane_cli::fuzzing::stunnel_file(data));
