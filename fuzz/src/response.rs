//! Answers of brokers.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mq_kafka::fuzzing::response(data));
