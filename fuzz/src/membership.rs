//! What members of groups tell each other.

#![cfg_attr(fuzzing, no_main)]

mq_fuzz::target!(mq_kafka::fuzzing::membership);
