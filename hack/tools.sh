#!/bin/bash
# hack/tools.sh TOOL…: checks that the named tools are there, installs what it can, and else says in one sentence what to do.
#   rust   the pinned toolchain and a C compiler (librdkafka and OpenSSL are built from source)
#   go     Go 1.26 or newer
#   java   a JDK of Java 17 or newer, and Maven
#   node   what a node with real pods needs of the machine
set -euo pipefail
cd "$(dirname "$0")/.."

die() { echo "mq: $*" >&2; exit 1; }
has() { command -v "$1" > /dev/null; }

# apt_install PACKAGE…: as root on Debian and Ubuntu, otherwise names the command.
apt_install() {
    local command="apt-get install --no-install-recommends $*"
    if [ "$(id -u)" != 0 ] || ! has apt-get; then
        die "packages are missing; on Debian or Ubuntu install them with: sudo $command"
    fi
    echo "mq: installing $*" >&2
    export DEBIAN_FRONTEND=noninteractive
    if ! $command -y -q > /dev/null 2>&1 < /dev/null; then
        apt-get update -q > /dev/null < /dev/null || die "\`apt-get update\` failed; then install by hand: $command"
        $command -y -q > /dev/null < /dev/null || die "this failed, see above: $command"
    fi
}

# at_least WANTED FOUND: compares dotted versions.
at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -1)" = "$1" ]; }

rust() {
    has rustup || die "Rust is missing: install rustup from https://rustup.rs, it then fetches the pinned toolchain"
    local wanted
    wanted=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
    if ! rustup run "$wanted" cargo clippy --version > /dev/null 2>&1 || ! rustup run "$wanted" cargo fmt --version > /dev/null 2>&1; then
        echo "mq: installing Rust $wanted" >&2
        rustup toolchain install "$wanted" --profile minimal --component rustfmt --component clippy > /dev/null 2>&1 < /dev/null \
            || die "this failed: rustup toolchain install $wanted --profile minimal --component rustfmt --component clippy"
    fi
    local missing=()
    has gcc || missing+=(gcc libc6-dev)
    has g++ || missing+=(g++)
    has make || missing+=(make)
    has perl || missing+=(perl)
    has pkg-config || missing+=(pkg-config)
    [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
    target_folder
}

# target_folder: a checkout without a target folder takes over that of a checkout which is gone, or copies the dependencies out
# of another's. Our own crates are compiled anew in either case.
target_folder() {
    local target=${CARGO_TARGET_DIR:-} folders other
    [ -n "$target" ] && [ ! -d "$target" ] || return 0
    folders=$(dirname "$target")
    mkdir -p "$folders"
    other=$(find "$folders" -mindepth 2 -maxdepth 2 -name checkout -printf '%T@ %h\n' | sort -rn | head -1 | cut -d' ' -f2-)
    if [ -z "$other" ]; then
        mkdir "$target"
    elif [ ! -d "$(cat "$other/checkout")" ]; then
        mv "$other" "$target"
    else
        echo "mq: copying the compiled dependencies of $(cat "$other/checkout")" >&2
        rm -rf "$target.new"
        mkdir -p "$target.new/debug"
        # The fingerprints first: they vouch for files that are complete.
        cp -a "$other"/debug/{.fingerprint,build,deps} "$target.new/debug" 2> /dev/null || true
        mv "$target.new" "$target"
    fi
    rm -rf "$target"/debug/{incremental,.fingerprint/mq-*}
    pwd > "$target/checkout"
}

go_() {
    has go || die "Go is missing: install Go 1.26 or newer from https://go.dev/dl"
    local found
    found=$(go env GOVERSION)
    at_least 1.26 "${found#go}" || die "Go 1.26 or newer is needed, this is $found: install it from https://go.dev/dl"
}

java_() {
    local missing=()
    { has java && has javac && has jlink; } || missing+=(openjdk-17-jdk-headless)
    has mvn || missing+=(maven)
    [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
    local found
    found=$(java -version 2>&1 | sed -n 's/.* version "\([0-9.]*\).*/\1/p')
    at_least 17 "$found" || die "Java 17 or newer is needed, this is $found: install openjdk-17-jdk-headless"
}

node() {
    [ "$(id -u)" = 0 ] || die "this needs root: real pods take namespaces, cgroups and a network of their own; run it with sudo"
    local missing=()
    has containerd || missing+=(containerd)
    has runc || missing+=(runc)
    [ -e /usr/lib/cni/bridge ] || [ -e /opt/cni/bin/bridge ] || missing+=(containernetworking-plugins)
    has conntrack || missing+=(conntrack)
    has iptables || missing+=(iptables)
    has nft || missing+=(nftables)
    has ip || missing+=(iproute2)
    has strip || missing+=(binutils)
    [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
}

for tool in "$@"; do
    case $tool in
        rust | node) "$tool" ;;
        go | java) "${tool}_" ;;
        *) die "hack/tools.sh knows rust, go, java and node, not $tool" ;;
    esac
done
