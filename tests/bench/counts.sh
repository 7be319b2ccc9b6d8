#!/usr/bin/env bash
# Instructions that hot parts and a whole request take, beside the stored counts: counts.sh [--release] [--update]
#
# Counts repeat where times do not: what takes a tenth more than stored fails, and so does what takes a tenth less, which
# asks for an update. Two numbers of rounds are counted, so that starting the program cancels out. Needs valgrind; counts
# are for x86-64 and the Rust of the day they were stored, so an update after a new Rust is no shame.
#
# Without --release the programs are the unoptimized ones that the tests have built anyway: more instructions, but the
# same work, and no other build. What runs in production is counted with --release.
set -euo pipefail
cd "$(dirname "$0")/../.."
tolerance=10 # per cent

profile=dev update=
for argument in "$@"; do
    case "$argument" in
    --release) profile=release ;;
    --update) update=1 ;;
    *) echo "usage: counts.sh [--release] [--update]" >&2; exit 2 ;;
    esac
done
stored=tests/bench/counts.txt

[ "$(uname -m)" = x86_64 ] || { echo "counts: stored for x86_64 only, left out"; exit 0; }
command -v valgrind >/dev/null || { echo "counts: valgrind is missing (tests/setup.sh count)" >&2; exit 1; }

built() { # NAME: where cargo has put it
    sed -n "s/.*\"executable\":\"\([^\"]*\/$1[^\"/]*\)\".*/\1/p" <<<"$messages" | tail -1
}
messages=$(cargo build --locked --profile "$profile" --bin hookmoat --bench counts --message-format=json 2>/dev/null) ||
    { cargo build --locked --profile "$profile" --bin hookmoat --bench counts; exit 1; }
HOOKMOAT=$(built hookmoat)
binary=$(built counts)
export HOOKMOAT

count() { # PART TIMES: instructions
    if [ "$1" = program ]; then
        "$binary" program "$2"
    else
        valgrind --tool=callgrind --callgrind-out-file=/dev/null "$binary" "$1" "$2" 2>&1 |
            sed -n 's/.*Collected : \([0-9]*\).*/\1/p'
    fi
}

failed=0
new=$(mktemp)
trap 'rm -f "$new"' EXIT
grep -v "^$profile " "$stored" >"$new" 2>/dev/null || true
for part in request_head response_head chunked_16k checks program; do
    few=$(count $part 200)
    many=$(count $part 1200)
    now=$(((many - few) / 1000))
    echo "$profile $part $now" >>"$new"
    before=$(sed -n "s/^$profile $part //p" "$stored" 2>/dev/null || true)
    if [ -z "$before" ]; then
        echo "$part: $now instructions, nothing stored"
        failed=1
    else
        change=$(((now - before) * 100 / before))
        echo "$part: $now instructions, $before stored ($change %)"
        if [ "$change" -gt $tolerance ] || [ "$change" -lt -$tolerance ]; then failed=1; fi
    fi
done
if [ -n "$update" ]; then
    sort "$new" >"$stored"
    exit 0
fi
[ $failed = 0 ] || { echo "counts: more than $tolerance % away. Worth it, or better? tests/bench/counts.sh --update" >&2; exit 1; }
