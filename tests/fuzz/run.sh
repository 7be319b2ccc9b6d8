#!/usr/bin/env bash
# Runs a libFuzzer target: tests/fuzz/run.sh TARGET [SECONDS] [more arguments of libFuzzer]. Without arguments: the list.
# Needs a C++ compiler. Any Rust will do: only Hookmoat itself is instrumented, through a wrapper around rustc.
set -euo pipefail
cd "$(dirname "$0")/../.."

targets=$(sed -n 's/^name = "\(.*\)"$/\1/p' tests/fuzz/Cargo.toml | grep -v '^hookmoat-fuzz$')
target=${1:-}
[ -n "$target" ] && grep -qx "$target" <<<"$targets" || { echo "usage: tests/fuzz/run.sh TARGET [SECONDS]"; echo "$targets"; exit 2; }
seconds=${2:-60}
shift $(($# < 2 ? $# : 2))

work=tests/.work/fuzz
mkdir -p "$work/$target" "$work/findings"
cat > "$work/rustc" <<'WRAPPER'
#!/bin/sh
# The first argument is rustc; `--crate-name NAME` stands among the rest.
for argument in "$@"; do
    case "$previous" in --crate-name) name=$argument ;; esac
    previous=$argument
done
case "$name" in
    hookmoat | WANTED)
        exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
            -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
            -Cllvm-args=-sanitizer-coverage-trace-compares ;;
esac
exec "$@"
WRAPPER
sed -i "s/WANTED/$(echo "$targets" | paste -sd'|' | sed 's/|/ | /g')/" "$work/rustc"
chmod +x "$work/rustc"

# The same versions as in the program.
cp Cargo.lock tests/fuzz/Cargo.lock
RUSTC_WRAPPER=$PWD/$work/rustc cargo build --manifest-path tests/fuzz/Cargo.toml --target-dir "${CARGO_TARGET_DIR:-target}" --bin "$target"
exec "${CARGO_TARGET_DIR:-target}/debug/$target" -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=2048 \
    -artifact_prefix="$work/findings/$target-" "$@" "$work/$target" "tests/fuzz/corpus/$target"
