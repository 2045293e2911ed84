//! Messages of the stream between operator and agents.

#![cfg_attr(fuzzing, no_main)]

mq_fuzz::target!(mq_protocol::fuzzing::messages);
