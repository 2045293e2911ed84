//! Headers as librdkafka holds them.

#![cfg_attr(fuzzing, no_main)]

mq_fuzz::target!(mq_kafka::fuzzing::header_names);
