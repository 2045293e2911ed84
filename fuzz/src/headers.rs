//! Headers that the agent reads something of.

#![cfg_attr(fuzzing, no_main)]

mq_fuzz::target!(mq_agent::fuzzing::headers);
