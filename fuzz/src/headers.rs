//! Headers that the agent reads something of.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mq_agent::fuzzing::headers(data));
