//! From arguments to a configuration.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sealane_cli::fuzzing::command_line(data));
