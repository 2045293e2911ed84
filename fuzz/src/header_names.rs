//! Headers as librdkafka holds them.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mq_kafka::fuzzing::header_names(data));
