#!/bin/bash
# Builds each crate by itself: in a whole-workspace build, a feature or dependency that one crate forgot is lent by another.
set -euo pipefail
for crate in $(cargo metadata --no-deps --locked --format-version 1 | grep -o '"name":"mq-[a-z]*","version"' | cut -d'"' -f4 | sort -u); do
    echo "mq: $crate alone"
    cargo check --quiet --locked -p "$crate" < /dev/null
done
