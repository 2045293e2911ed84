#!/bin/bash
# hack/source-map.sh [--write]: keeps the source map of docs/ARCHITECTURE.md true. Each module is described by the first sentence of
# its own documentation, so the map cannot say anything else than the code; a module without one fails.
set -euo pipefail
cd "$(dirname "$0")/.."
doc=docs/ARCHITECTURE.md

# The first sentence of a Rust module's documentation.
sentence() {
    awk '/^\/\/!/ { line = $0; sub(/^\/\/! ?/, "", line); if (line == "") exit; text = text (text == "" ? "" : " ") line; next }
         text != "" { exit }
         END { if (match(text, /[.]( |$)/)) text = substr(text, 1, RSTART - 1); print text }' "$1"
}

map() {
    local crate root file module path says
    for crate in core crds kafka protocol agent operator simulation testkit demo benches; do
        [ -d "$crate/src" ] || continue
        root=$crate/src/lib.rs
        [ -f "$root" ] || root=$crate/src/main.rs
        printf '\n**%s/** %s\n\n' "$crate" "$(sentence "$root")"
        # The modules one level below src; what is below them is their own business.
        git ls-files --cached --others --exclude-standard "$crate/src" | sed -n "s|^$crate/src/\(.*\.rs\)$|\1|p" |
            sed -e '/^lib\.rs$/d' -e '/tests\{0,1\}\.rs$/d' -e '/^bin\//!s|/.*||' -e 's|\.rs$||' | sort -u |
        while read -r module; do
            path=$crate/src/$module
            for file in "$path.rs" "$path/mod.rs"; do [ ! -f "$file" ] || break; done
            [ -f "$file" ] || continue # deleted, not yet committed
            says=$(sentence "$file")
            [ -n "$says" ] || { echo "$file has no documentation that begins with a sentence" >&2; return 1; }
            # shellcheck disable=SC2016
            printf -- '- `%s`: %s\n' "$module" "$says"
        done
    done
}

new=$(mktemp)
trap 'rm -f "$new"' EXIT
{
    sed '/<!-- source map -->/q' "$doc"
    map
    echo
    sed -n '/<!-- end of the source map -->/,$p' "$doc"
} > "$new"
if [ "${1:-}" = --write ]; then
    cat "$new" > "$doc"
elif ! diff -u "$doc" "$new"; then
    echo "$doc does not describe the source; hack/source-map.sh --write puts that right" >&2
    exit 1
fi
