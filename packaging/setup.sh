# packaging/setup.sh - sourced by demo.sh and test.sh: installs the packages that are missing (Debian 12 and its
# relatives) and goes to the root of the tree.
set -eu
cd "$(dirname "$0")/.."

q3_install() { # package names; installs those that are not there
    missing=
    for p in "$@"; do
        dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $p"
    done
    [ -z "$missing" ] && return 0
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "These packages are needed, and this is no Debian (no apt-get); install their like by hand:$missing" >&2
        exit 1
    fi
    if [ "$(id -u)" = 0 ]; then
        sudo=
    elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
        sudo="sudo -n"
    elif command -v sudo >/dev/null 2>&1 && [ -t 0 ]; then
        sudo=sudo
    else
        echo "These packages are missing; ask an administrator to run: apt-get install$missing" >&2
        exit 1
    fi
    echo "installing:$missing"
    # shellcheck disable=SC2086
    $sudo apt-get update -q >/dev/null
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -q -y --no-install-recommends $missing >/dev/null
}

q3_packages="gcc libc6-dev cmake make pkg-config libcjson-dev libarchive-dev zlib1g-dev libjpeg62-turbo-dev libpng-dev
    libwebp-dev libutf8proc-dev"
q3_test_packages="libcmocka-dev git"
jobs=$(nproc 2>/dev/null || echo 2)
