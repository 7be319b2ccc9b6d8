#!/usr/bin/env bash
# What forged requests and duplicates cost beside good ones: forged.sh BENCH [ROUNDS], about 20 s a round
#
# BENCH is the harness of e2e.sh. One Hookmoat on the first core, load and backend on the second, closed loop, 1 KiB: all
# good, all forged, all duplicates of delivered events, and one in ten forged with one in twenty a duplicate. CPU is that
# of all its threads, median of the rounds.
set -euo pipefail

bench=${1:?usage: forged.sh BENCH [ROUNDS]}
rounds=${2:-3}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
hookmoat=${HOOKMOAT:-${CARGO_TARGET_DIR:-$root/target}/release/hookmoat}
tools=$bench/loadgen/target/release
for program in "$hookmoat" "$tools/loadgen" "$tools/backend"; do
    [ -x "$program" ] || { echo "forged: no $program" >&2; exit 1; }
done

work=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null; wait; rm -rf "$work"' EXIT
export PORT=21080 TLS_PORT=21443 BACKEND_PORT=21090 MAX_BODY=1048576 RATE=1000000 DEDUPE_TTL=3600
export DEDUPE_MAX=2000000 ALLOW=$work/allow CERT=$work/tls.crt KEY=$work/tls.key SECRET=hookmoat-bench-secret-0123456789abcdef
SECRET_B64=$(printf %s "$SECRET" | base64)
export SECRET_B64
echo 127.0.0.0/8 >"$ALLOW"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -days 2 -keyout "$KEY" -out "$CERT" 2>/dev/null
mkdir "$work/config"
python3 - "$here/hookmoat.tmpl.yaml" >"$work/config/hookmoat.yaml" <<'RENDER'
import os, re, sys
print(re.sub(r"\$\{(\w+)\}", lambda match: os.environ[match.group(1)], open(sys.argv[1]).read()))
RENDER

one=() other=()
if [ "$(nproc)" -ge 2 ]; then one=(taskset -c 0) other=(taskset -c 1); fi
"${other[@]}" "$tools/backend" --port $BACKEND_PORT --secret "$SECRET" --track-ids >/dev/null & pids+=($!)
"${one[@]}" "$hookmoat" run --config "$work/config/hookmoat.yaml" 2>"$work/log" & proxy=$!
pids+=("$proxy")
for _ in $(seq 200); do
    (exec 3<>/dev/tcp/127.0.0.1/$PORT) 2>/dev/null && break
    sleep 0.05
done

load() { # NAME, arguments of the load generator
    local name=$1
    shift
    "${other[@]}" "$tools/loadgen" --port $PORT --secret "$SECRET" --expect-bad 401 --expect-dup 409 --cpu "proxy=$proxy" \
        --mode closed --conns 64 --body-size 1024 --warmup 0.3 --duration 3 "$@" >"$work/$name.$round.json" || true
}
for round in $(seq "$rounds"); do
    load good
    load forged --bad-pct 100
    load duplicates --dup-pct 95
    load mix --bad-pct 10 --dup-pct 5
done
python3 - "$work" "$rounds" <<'TABLE'
import json, statistics, sys
work, rounds = sys.argv[1], int(sys.argv[2])
print("| 1 KiB, closed loop | CPU µs | requests/s | p99 ms of good ones |\n|---|---:|---:|---:|")
for name in ("good", "forged", "duplicates", "mix"):
    runs = [json.load(open(f"{work}/{name}.{n}.json")) for n in range(1, rounds + 1)]
    wrong = sum(run["mismatch"] + run["conn_err"] for run in runs)
    at = lambda value: statistics.median(map(value, runs))
    late = at(lambda run: run["lat_us"]["p99"] / 1000)
    print(f"| {name} | {at(lambda run: run['cpu']['proxy']['us_per_req']):.1f} | {at(lambda run: run['rps']):.0f} "
          f"| {f'{late:.2f}' if late else '–'} |" + (f" {wrong} wrong answers!" if wrong else ""))
TABLE
