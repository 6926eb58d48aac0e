//! Both ends of a handshake, over a line that cuts and changes what it carries.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sealane_relay::fuzzing::handshake(data));
