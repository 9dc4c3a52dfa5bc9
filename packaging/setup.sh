# packaging/setup.sh - sourced by demo.sh and test.sh: goes to the root of the tree, installs what is missing (on
# Debian 12 and its relatives), builds. What it runs is quiet unless it fails.
set -eu
unset CDPATH
cd "$(dirname "$0")/.."
jobs=$(nproc 2>/dev/null || echo 2)

q3_stop() { # a sentence for the user
    echo "$0: $1" >&2
    exit 1
}

# The packages of what is not there, judged by what works: any distribution will do that has it all.
# arguments: name:package ..., a name being a command's or a library's as pkg-config knows it
q3_missing() {
    missing=
    echo '#include <stdlib.h>' | cc -E - >/dev/null 2>&1 || missing="$missing gcc libc6-dev"
    for p in cmake:cmake make:make pkg-config:pkg-config "$@"; do
        command -v "${p%%:*}" >/dev/null 2>&1 || pkg-config --exists "${p%%:*}" 2>/dev/null || missing="$missing ${p#*:}"
    done
}

q3_root() { # runs a command as root
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

q3_can_be_root() {
    [ "$(id -u)" = 0 ] && return 0
    command -v sudo >/dev/null 2>&1 || return 1
    [ -t 0 ] || sudo -n true 2>/dev/null
}

q3_install() { # as q3_missing
    q3_missing "$@"
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null 2>&1 ||
        q3_stop "there is no apt-get here; install what Debian calls$missing, then run this again"
    q3_can_be_root ||
        q3_stop "packages are missing, and this is neither root nor allowed to use sudo; ask for: apt-get install$missing"
    echo "installing$missing"
    log=$(mktemp)
    # shellcheck disable=SC2086
    if ! { q3_root apt-get update -q && q3_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends $missing; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        q3_stop "apt-get could not install$missing (see above); is the network there?"
    fi
    rm -f "$log"
    q3_missing "$@"
    [ -z "$missing" ] || q3_stop "installed, and yet these do not work:$missing"
}

q3_build() { # directory, options of cmake; builds the targets in $targets, or all
    dir=$1
    shift
    mkdir -p "$dir" 2>/dev/null && [ -w "$dir" ] && [ -w "$dir/CMakeCache.txt" -o ! -e "$dir/CMakeCache.txt" ] ||
        q3_stop "$PWD/$dir cannot be written (was it built as root?); remove it, or run this with sudo"
    if ! { cmake -S . -B "$dir" "$@" && cmake --build "$dir" -j "$jobs" ${targets:+--target $targets}; } \
        >"$dir/build.log" 2>&1; then
        tail -n 60 "$dir/build.log" >&2
        q3_stop "the build failed (see above; all of it is in $PWD/$dir/build.log)"
    fi
}

q3_libraries="libcjson:libcjson-dev libarchive:libarchive-dev zlib:zlib1g-dev libjpeg:libjpeg-dev libpng:libpng-dev
    libwebp:libwebp-dev libzstd:libzstd-dev snappy:libsnappy-dev libutf8proc:libutf8proc-dev libedit:libedit-dev libmicrohttpd:libmicrohttpd-dev
    libcurl:libcurl4-openssl-dev"
