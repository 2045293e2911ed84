//! Messages of the stream between operator and agents.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mq_protocol::fuzzing::messages(data));
