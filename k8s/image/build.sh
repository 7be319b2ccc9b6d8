#!/bin/sh
# A static binary for this machine's architecture, in which nothing says where or when it was built, and the image around it.
# Usage: build.sh binary | image [NAME] | reproduce
#
# `binary` writes target/image: hookmoat, its bill of materials, the machine's roots of trust. `image` puts the last stage
# of the Dockerfile around it with buildah, which needs no daemon and, for `FROM scratch`, no registry. Where Docker is, the
# Dockerfile builds all of it by itself. `reproduce` builds the binary of the last commit twice, in clones that lie elsewhere, and
# compares byte by byte.
set -eu
cd "$(dirname "$0")/../.."

PATH=$PATH:${HOME:-/root}/.cargo/bin
OUT=target/image
target=$(uname -m)-unknown-linux-musl
say() { echo "image: $*" >&2; }

binary() {
    rustc --print target-libdir --target "$target" | xargs test -d || rustup target add "$target" >&2 || {
        say "the Rust target $target is missing: rustup target add $target"
        exit 1
    }
    # On Alpine the ordinary compiler is the one.
    cc=cc
    rustc -vV | grep -q 'host: .*musl' || cc=musl-gcc
    command -v $cc >/dev/null || { say "$cc is missing: apt-get install musl-tools"; exit 1; }
    # Nothing in the binary says where or when it was built.
    cargo_home=${CARGO_HOME:-$HOME/.cargo}
    maps="$PWD=/src $cargo_home=/cargo $(rustc --print sysroot)=/rust"
    rust= c=
    for map in $maps; do
        rust="$rust --remap-path-prefix=$map"
        c="$c -ffile-prefix-map=$map"
    done
    # The seed is for a crate of pingora's that could make up constants in every build.
    CONST_RANDOM_SEED=hookmoat SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-0} CC=$cc CFLAGS="$c" \
        RUSTC_WRAPPER="$PWD/k8s/image/rustc.sh" HOOKMOAT_RUSTC_FLAGS="$rust" RUSTFLAGS="-C target-feature=+crt-static" \
        cargo build --locked --release --target "$target" --bin hookmoat >&2
    rm -rf "$OUT"
    mkdir -p "$OUT/out" "$OUT/etc/ssl/certs"
    install -m 755 "target/$target/release/hookmoat" "$OUT/out/hookmoat"
    strip --strip-debug "$OUT/out/hookmoat"
    python3 k8s/image/sbom.py "$target" >"$OUT/out/sbom.cdx.json"
    cp /etc/ssl/certs/ca-certificates.crt "$OUT/etc/ssl/certs/"
    sha256sum "$OUT/out/hookmoat"
}

image() {
    command -v buildah >/dev/null || { say "buildah is missing: apt-get install buildah"; exit 1; }
    # Owner and time of every file are fixed as well. The format of Docker, since that of OCI has no health check.
    buildah build --quiet --format docker --isolation chroot --storage-driver "${STORAGE_DRIVER:-vfs}" --timestamp 0 \
        --build-context build="$OUT" --file k8s/image/Dockerfile --target image --tag "$1" .
}

reproduce() {
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    for place in first "second/and/further/down"; do
        git clone --quiet . "$work/$place"
        (cd "$work/$place" && k8s/image/build.sh binary >&2)
        mkdir -p "$work/out/$place"
        mv "$work/$place/target/image/out" "$work/out/$place"
        rm -rf "${work:?}/$place"
    done
    diff -r "$work/out/first/out" "$work/out/second/and/further/down/out" || {
        trap - EXIT
        say "the two builds differ; they are in $work/out"
        exit 1
    }
    say "two builds in different folders gave the same bytes"
    sha256sum "$work/out/first/out/hookmoat" | sed "s, .*,  hookmoat,"
}

case ${1:?usage: build.sh binary|image [NAME]|reproduce} in
    binary) binary ;;
    image) [ -x "$OUT/out/hookmoat" ] || binary; image "${2:-hookmoat:0.1.0}" ;;
    reproduce) reproduce ;;
    *) say "binary, image or reproduce"; exit 2 ;;
esac
