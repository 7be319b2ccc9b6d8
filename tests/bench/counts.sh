#!/usr/bin/env bash
# Instructions that hot parts take, beside the stored counts: counts.sh [--update]
#
# Counts repeat where times do not: a part that takes a tenth more than stored fails, one that takes a tenth less asks for
# an update. Two numbers of rounds are counted, so that starting the program cancels out. Needs valgrind; counts are for
# x86-64 and the Rust of the day they were stored, so an update after a new Rust is no shame.
set -euo pipefail
cd "$(dirname "$0")/../.."
stored=tests/bench/counts.txt
tolerance=10 # per cent

[ "$(uname -m)" = x86_64 ] || { echo "counts: stored for x86_64 only, left out"; exit 0; }
command -v valgrind >/dev/null || { echo "counts: valgrind is missing (tests/setup.sh count)" >&2; exit 1; }

binary=$(cargo bench --locked --no-run --bench counts --message-format=json 2>/dev/null |
    sed -n 's/.*"executable":"\([^"]*counts-[^"]*\)".*/\1/p' | tail -1)
[ -x "$binary" ] || { echo "counts: the program was not built" >&2; exit 1; }

count() { # PART TIMES: instructions
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$binary" "$1" "$2" 2>&1 |
        sed -n 's/.*Collected : \([0-9]*\).*/\1/p'
}

failed=0
new=$(mktemp)
trap 'rm -f "$new"' EXIT
for part in request_head response_head chunked_16k checks_1k checks_16k; do
    few=$(count $part 200)
    many=$(count $part 1200)
    now=$(((many - few) / 1000))
    echo "$part $now" >>"$new"
    before=$(sed -n "s/^$part //p" "$stored" 2>/dev/null || true)
    if [ -z "$before" ]; then
        echo "$part: $now instructions, nothing stored"
        [ "${1:-}" = --update ] || failed=1
    else
        change=$(((now - before) * 100 / before))
        echo "$part: $now instructions, $before stored ($change %)"
        if [ "$change" -gt $tolerance ] || [ "$change" -lt -$tolerance ]; then failed=1; fi
    fi
done
if [ "${1:-}" = --update ]; then
    cp "$new" "$stored"
    exit 0
fi
[ $failed = 0 ] || { echo "counts: more than $tolerance % away. Worth it, or better? tests/bench/counts.sh --update" >&2; exit 1; }
