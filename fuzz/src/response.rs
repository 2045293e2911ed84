//! Answers of brokers.

#![cfg_attr(fuzzing, no_main)]

mq_fuzz::target!(mq_kafka::fuzzing::response);
