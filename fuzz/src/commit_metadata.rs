//! What a group has committed with an offset, by whomever.

#![cfg_attr(fuzzing, no_main)]

mq_fuzz::target!(mq_agent::fuzzing::commit_metadata);
