#!/bin/sh
# rustc with HOOKMOAT_RUSTC_FLAGS behind its own, for cargo's RUSTC_WRAPPER. RUSTFLAGS would not reach build scripts and
# macros, since a target is named; but the folder in which one of those was built is in the hash of every crate that uses it.
# shellcheck disable=SC2086
exec "$@" $HOOKMOAT_RUSTC_FLAGS
