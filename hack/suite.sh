#!/bin/bash
# hack/suite.sh SUITE [--include-ignored | --ignored] [FILTER]: runs a suite of crate mq-tests against the servers that MQ_TESTKIT
# names, and fails unless as many tests passed as there are: a test that vanishes from the run must not look like success.
set -euo pipefail
suite=$1
shift
run() { cargo test --quiet --workspace --locked --test "$suite" -- "$@" < /dev/null; }
count() { run --list --format terse "$@" | grep -c ': test$' || true; }

wanted=$(count "$@")
case "${1:-}" in
    --include-ignored | --ignored) ;;
    *) wanted=$((wanted - $(count --ignored "$@"))) ;;
esac
[ "$wanted" -gt 0 ] || { echo "mq: the suite $suite holds no tests" >&2; exit 1; }

log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Whole processes and brokers are disturbed in these: one test at a time.
[ "$suite" = integration ] || export RUST_TEST_THREADS=1
cargo test --workspace --locked --test "$suite" -- "$@" < /dev/null 2>&1 | tee "$log"
passed=$(sed -n 's/^test result: ok\. \([0-9]*\) passed.*/\1/p' "$log")
if [ "$passed" != "$wanted" ]; then
    echo "mq: the suite $suite holds $wanted tests for this run, but $passed passed" >&2
    exit 1
fi
