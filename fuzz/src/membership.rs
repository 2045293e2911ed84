//! What members of groups tell each other.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mq_kafka::fuzzing::membership(data));
