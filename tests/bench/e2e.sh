#!/usr/bin/env bash
# Hookmoat beside what people use today, in one run: e2e.sh BENCH [arguments for the harness]
#
# BENCH is the folder of the benchmark harness (run.sh, load generator, backend, one script for each contender; its
# README says what to install). Contenders that are not installed are left out, and said. For example
#
#   tests/bench/e2e.sh ~/bench --rounds 5                          the whole table of the README, about half an hour
#   tests/bench/e2e.sh ~/bench --quick --scenarios o1k             a first look
#   tests/bench/e2e.sh ~/bench --functional                        correctness only
#   tests/bench/e2e.sh ~/bench --scenarios tls1k --no-functional   over TLS
#   tests/bench/e2e.sh ~/bench --scenarios mix1k --no-functional   10 % forged, 5 % duplicates
#   tests/bench/e2e.sh ~/bench --scale                             1,000,000 live IDs, 100,000 networks, 100,000 clients
#   WORKERS=2 tests/bench/e2e.sh ~/bench --no-pin --only hookmoat  more workers than one, on whatever cores there are
#
# What forged requests cost beside good ones: tests/bench/forged.sh.
set -euo pipefail

bench=${1:-}
[ -n "$bench" ] && shift
if [ ! -x "$bench/run.sh" ]; then
    echo "usage: make bench BENCH=/path/to/the/harness   (no run.sh in '$bench')" >&2
    exit 1
fi
bench=$(cd "$bench" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
hookmoat=${HOOKMOAT:-${CARGO_TARGET_DIR:-$root/target}/release/hookmoat}
[ -x "$hookmoat" ] || { echo "no $hookmoat: run make build" >&2; exit 1; }

out=$root/tests/.work/bench
mkdir -p "$root/tests/.work"
config=$root/tests/.work/hookmoat.tmpl.yaml
sed "s/^workers: 1$/workers: ${WORKERS:-1}/" "$here/hookmoat.tmpl.yaml" >"$config"

contenders=tcp-relay
add() { # name, then a test whether it is here
    local name=$1
    shift
    if "$@" >/dev/null 2>&1; then contenders+=,$name; else echo "bench: $name is not installed, left out" >&2; fi
}
add pingora-plain test -x "$bench/pingora-plain/target/release/pingora-plain"
add nginx-lua test -e /usr/lib/nginx/modules/ngx_http_lua_module.so
add haproxy-verify command -v haproxy
add haproxy-plain command -v haproxy
add envoy-lua test -d /opt/bench-envoy/venv

# Later arguments win, so `--only …` and the like may be given.
"$bench/run.sh" --hookmoat "$hookmoat" --config "$config" \
    --hookmoat-args "run --config {config}" \
    --expect-bad 401 --expect-dup 409 --expect-ipdeny 403 \
    --only "hookmoat,$contenders" --reference nginx-lua --out "$out" "$@"

# A whole run makes the table of the README; what was only tried does not.
case " $* " in
*" --functional "* | *" --scale "* | *" --quick "*) ;;
*" --scenarios "*) case "$*" in *max1k*) cd "$root" && tests/bench/table.py "$out.json" ;; esac ;;
*) cd "$root" && tests/bench/table.py "$out.json" ;;
esac
