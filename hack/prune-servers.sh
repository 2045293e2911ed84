#!/bin/bash
# hack/prune-servers.sh CACHE: removes launchers that nobody uses any more. The two that were used last stay, and so does one that
# runs, and one that another checkout asked for within the last hour: it may still be compiling its tests.
set -euo pipefail
cd "$1"
running=$(readlink /proc/[0-9]*/exe || true)
find . -maxdepth 1 -type d -name 'servers-*' -printf '%T@ %f\n' | sort -rn | tail -n +3 | cut -d' ' -f2 | while read -r folder; do
    if [ -n "$(find "$folder" -maxdepth 0 -mmin +60)" ] && [[ $running != *"$PWD/$folder/"* ]]; then
        rm -rf "$folder"
    fi
done
