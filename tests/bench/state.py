#!/usr/bin/env python3
"""What remembering costs: memory, SQLite and Redis side by side, in one run, with the standard library alone.

    tests/bench/state.py [--hookmoat target/release/hookmoat] [--rate 400] [--seconds 8] [--rounds 3] [--ids 10000000]

Each round starts one Hookmoat for each store, one after the other, in front of a backend that answers at once, and sends
signed events at a fixed rate: each ID once, each event new. CPU is that of all threads of the proxy between the first and
the last request (/proc/PID/task/*/schedstat), latency runs from the moment a request was due to the end of its answer.
With --write, the table goes into README.md. With --ids, so many IDs are put into a Redis of its own, as Hookmoat writes
them, and its memory is divided by their number.
"""
import argparse, asyncio, glob, os, shutil, socket, statistics, subprocess, sys, tempfile, time

from events import SECRET, free_port, marked, request, serve_backend

BEGIN, END = "<!-- cost:begin -->", "<!-- cost:end -->"


def cpu(pid):
    """Nanoseconds on a processor, of all threads."""
    total = 0
    for path in glob.glob(f"/proc/{pid}/task/*/schedstat"):
        try:
            with open(path) as f:
                total += int(f.read().split()[0])
        except OSError:
            pass
    return total


async def worker(port, jobs, latencies, bad):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while (job := await jobs.get()) is not None:
        due, data = job
        writer.write(data)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(l.split(b":")[1]) for l in head.lower().split(b"\r\n") if l.startswith(b"content-length:"))
        await reader.readexactly(length)
        latencies.append(time.perf_counter() - due)
        if not head.startswith(b"HTTP/1.1 200") or b"hookmoat-duplicate" in head.lower():
            bad.append(head[:60])
    writer.close()


async def send(port, pid, rate, seconds, tag):
    jobs, latencies, bad = asyncio.Queue(), [], []
    workers = [asyncio.create_task(worker(port, jobs, latencies, bad)) for _ in range(64)]
    count = int(rate * seconds)
    made = [request(f"{tag}-{n}") for n in range(count)]
    before, start = cpu(pid), time.perf_counter()
    for n, data in enumerate(made):
        due = start + n / rate
        while (left := due - time.perf_counter()) > 0:
            await asyncio.sleep(left)
        jobs.put_nowait((due, data))
    for _ in workers:
        jobs.put_nowait(None)
    await asyncio.gather(*workers)
    if bad:
        sys.exit(f"{len(bad)} answers were not 200, the first: {bad[0]}")
    return (cpu(pid) - before) / count / 1000, latencies


def start_redis(folder):
    port = free_port()
    child = subprocess.Popen(["redis-server", "--port", str(port), "--save", "", "--appendonly", "no"], cwd=folder,
                             stdout=subprocess.DEVNULL)
    for _ in range(500):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return port, child
        except OSError:
            time.sleep(0.01)
    sys.exit("redis-server did not start")


async def measure(program, store, rate, seconds, backend, tag):
    folder = tempfile.mkdtemp(prefix="hookmoat-bench-", dir=os.environ.get("BENCH_DIR"))
    redis = None
    try:
        state = "memory"
        if store == "sqlite":
            state = "{ sqlite: { path: state.db } }"
        if store == "redis":
            port, redis = start_redis(folder)
            state = f"{{ redis: {{ url: 'redis://127.0.0.1:{port}' }} }}"
        http, admin = free_port(), free_port()
        with open(f"{folder}/hookmoat.yaml", "w") as f:
            f.write(f"""listen: [{{ address: 127.0.0.1:{http} }}]
admin: 127.0.0.1:{admin}
https: allow
log: {{ requests: off }}
state: {state}
upstreams: {{ app: 'http://127.0.0.1:{backend}' }}
routes: [{{ name: github, path: /hook, provider: github, secrets: [{{ env: BENCH_SECRET }}], to: app }}]
""")
        child = subprocess.Popen([program, "run", "--config", f"{folder}/hookmoat.yaml"],
                                 env={**os.environ, "BENCH_SECRET": SECRET}, stderr=subprocess.DEVNULL,
                                 stdout=subprocess.DEVNULL)
        try:
            for _ in range(1000):
                try:
                    socket.create_connection(("127.0.0.1", http)).close()
                    break
                except OSError:
                    time.sleep(0.01)
            await asyncio.sleep(0.5)
            await send(http, child.pid, rate, 1, f"{tag}-warm")
            return await send(http, child.pid, rate, seconds, tag)
        finally:
            child.terminate()
            child.wait()
    finally:
        if redis:
            redis.kill()
            redis.wait()
        shutil.rmtree(folder, ignore_errors=True)


FILL = """
local n, prefix, keys = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
for i = 1, n do
  for k = 1, keys do
    local r = redis.sha1hex(ARGV[4] .. ':' .. i .. ':' .. k)
    local raw = {}
    for b = 1, 16 do raw[b] = string.char(tonumber(string.sub(r, 2 * b - 1, 2 * b), 16)) end
    redis.call('SET', prefix .. table.concat(raw), '1', 'PX', 259200000)
  end
end
"""


def ask(port, *words):
    with socket.create_connection(("127.0.0.1", port)) as s:
        s.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in map(str.encode, words)))
        f = s.makefile("rb")
        line = f.readline()
        if line.startswith(b"$") and line != b"$-1\r\n":
            return f.read(int(line[1:]) + 2).decode()
        return line.decode()


def used(port):
    info = ask(port, "INFO", "memory")
    return int(next(l for l in info.splitlines() if l.startswith("used_memory:")).split(":")[1])


def bytes_per_id(ids, prefix, keys):
    folder = tempfile.mkdtemp(prefix="hookmoat-bench-")
    port, redis = start_redis(folder)
    try:
        before, done = used(port), 0
        while done < ids:
            some = min(20_000, ids - done)
            answer = ask(port, "EVAL", FILL, "0", str(some), prefix, str(keys), str(done))
            if answer.startswith("-"):
                sys.exit(answer)
            done += some
        return (used(port) - before) / ids
    finally:
        redis.kill()
        redis.wait()
        shutil.rmtree(folder, ignore_errors=True)


async def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hookmoat", default="target/release/hookmoat")
    parser.add_argument("--rate", type=float, default=400)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ids", type=int, default=0)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    if args.rounds:
        backend = await asyncio.start_server(serve_backend, "127.0.0.1", 0)
        port = backend.sockets[0].getsockname()[1]
        results = {store: [] for store in ("memory", "sqlite", "redis")}
        for turn in range(args.rounds):
            for store in results:
                results[store].append(await measure(args.hookmoat, store, args.rate, args.seconds, port, f"{store}-{turn}"))
        lines = [f"{args.rounds} rounds of {args.seconds:g} s at {args.rate:g} requests/s, 1 KiB bodies, each event new; medians of rounds.", "",
                 "| Store | CPU µs/request | p50 ms | p99 ms | added p50 | added p99 |", "|---|---|---|---|---|---|"]
        base = None
        for store, rounds in results.items():
            at = lambda q: statistics.median(sorted(l)[int(len(l) * q)] for _, l in rounds) * 1000
            row = (statistics.median(c for c, _ in rounds), at(0.5), at(0.99))
            base = base or row
            lines.append(f"| {store} | {row[0]:.0f} | {row[1]:.2f} | {row[2]:.2f} | {row[1] - base[1]:+.2f} | {row[2] - base[2]:+.2f} |")
        print("\n".join(lines))
        if args.write:
            path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../README.md")
            marked(path, BEGIN, END, lines)
    if args.ids:
        one = bytes_per_id(args.ids, "hookmoat:", 1)
        two = bytes_per_id(args.ids // 2, "hookmoat:{bench-r1}", 2)
        print(f"\n{args.ids} live IDs in Redis: {one:.0f} bytes each; {two:.0f} for an event with two keys ({args.ids // 2} of them)")


asyncio.run(main())
