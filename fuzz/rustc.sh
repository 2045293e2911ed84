#!/bin/bash
# fuzz/rustc.sh RUSTC ARGUMENT…: cargo's RUSTC_WORKSPACE_WRAPPER of `make fuzz`. Compiles our own crates so that libFuzzer sees which way
# they go; all others are those that were compiled before. What `cargo fuzz` does, without the nightly compiler that its sanitizers need.
case " $* " in
*" --crate-name ___ "*) exec "$@" --cfg fuzzing ;; # cargo asks for the cfg, which decides upon the dependencies of fuzz/Cargo.toml
*" --crate-name build_script_build "* | *" --crate-type proc-macro "*) exec "$@" ;; # run by cargo, without libFuzzer
esac
exec "$@" --cfg fuzzing -Copt-level=2 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares
