//! What a group has committed with an offset, by whomever.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mq_agent::fuzzing::commit_metadata(data));
