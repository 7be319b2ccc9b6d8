#!/usr/bin/env python3
"""Honest traffic through a siege: 10,000 idle connections (that say nothing, or nothing more after a request, plain and
over TLS), and slowhttptest's slow headers, bodies, reads and ranges.

    tests/bench/siege.py [--hookmoat target/release/hookmoat] [--seconds 20] [--rate 100] [--idle 10000] [--slow 4000]
                         [--write config/HARDENING.md]

While each attack goes on from 127.0.0.1, signed events come from 127.0.0.2 at a fixed rate, half of them on connections of
their own. It ends with 1 when one of them gets anything but a 200. Memory is the highest VmRSS of the proxy, descriptors the highest
number in /proc/PID/fd. With --write, the table goes between the marks of that file. Needs slowhttptest (apt-get install
slowhttptest) for all but the idle connections.
"""
import argparse, asyncio, os, resource, shutil, signal, socket, ssl, subprocess, sys, tempfile, time

from events import SECRET, free_port, marked, request, serve_backend

BEGIN, END = "<!-- siege:begin -->", "<!-- siege:end -->"


class Honest:
    """Events at a fixed rate, alternately on one of a few kept connections and on a new one."""

    def __init__(self, port, rate):
        self.port, self.rate, self.kept = port, rate, []
        self.latencies, self.failures = [], []

    async def open(self):
        return await asyncio.open_connection("127.0.0.1", self.port, local_addr=("127.0.0.2", 0))

    async def one(self, tag, due, new):
        pair = None
        try:
            # As any client, it does not use what the server has closed: those at the bottom are idle for long.
            self.kept = [pair for pair in self.kept if not pair[0].at_eof()]
            pair = self.kept.pop() if self.kept and not new else await asyncio.wait_for(self.open(), 30)
            reader, writer = pair
            writer.write(request(tag))
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
            length = next(int(l.split(b":")[1]) for l in head.lower().split(b"\r\n") if l.startswith(b"content-length:"))
            await reader.readexactly(length)
            self.latencies.append(time.perf_counter() - due)
            if not head.startswith(b"HTTP/1.1 200"):
                self.failures.append(head.split(b"\r\n")[0].decode())
            if new:
                writer.close()
            else:
                self.kept.append(pair)
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError) as error:
            self.failures.append(repr(error))
            if pair:
                pair[1].close()

    async def during(self, name, seconds):
        self.latencies, self.failures = [], []
        start, tasks = time.perf_counter(), []
        for n in range(int(seconds * self.rate)):
            due = start + n / self.rate
            if (left := due - time.perf_counter()) > 0:
                await asyncio.sleep(left)
            tasks.append(asyncio.create_task(self.one(f"{name}-{n}", due, n % 2 == 0)))
        await asyncio.gather(*tasks)


QUESTION = b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def idle(port, count, kind):
    """Holds so many connections that say nothing (`silent`), or nothing more after a request (`used`, over TLS `tls`), and
    opens another for each that is closed."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    opened = 0
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE

    async def hold():
        nonlocal opened
        first = True
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls if kind == "tls" else None)
                if kind != "silent":
                    writer.write(QUESTION)
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = next(l.split(b":")[1] for l in head.lower().split(b"\r\n") if l.startswith(b"content-length:"))
                    await reader.readexactly(int(length))
                opened += first
                first = False
                await reader.read(1)
                writer.close()
            except (OSError, asyncio.IncompleteReadError):
                await asyncio.sleep(0.2)

    tasks = []
    for some in range(1, count // 500 + 1):
        tasks += [asyncio.create_task(hold()) for _ in range(500)]
        while opened < some * 500:
            await asyncio.sleep(0.1)
    print("ready", flush=True)
    await asyncio.gather(*tasks)


def of(pid):
    with open(f"/proc/{pid}/status") as f:
        rss = next(int(l.split()[1]) for l in f if l.startswith("VmRSS"))
    return rss / 1024, len(os.listdir(f"/proc/{pid}/fd"))


async def attack(name, command, honest, pid, seconds):
    child, is_ours = None, bool(command) and command[0] == sys.executable
    if command:
        await asyncio.sleep(11)  # until the memory of what was before is given back
        child = subprocess.Popen(command, stdout=subprocess.PIPE if is_ours else subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        if is_ours:
            await asyncio.to_thread(child.stdout.readline)
        if child:
            await asyncio.sleep(5)  # until most connections are there, and quiet
        peak = [0, 0]

        async def watch():
            while True:
                rss, descriptors = of(pid)
                peak[:] = max(peak[0], rss), max(peak[1], descriptors)
                await asyncio.sleep(0.25)

        watcher = asyncio.create_task(watch())
        await honest.during(name.replace(" ", "-"), seconds)
        watcher.cancel()
    finally:
        if child:
            child.kill()
            child.wait()
    times = sorted(honest.latencies) or [float("nan")]
    at = lambda share: times[min(len(times) - 1, int(len(times) * share))] * 1000
    print(f"{name}: {len(times)} answered, {len(honest.failures)} failed, rss {peak[0]:.0f} MiB, {peak[1]} descriptors",
          file=sys.stderr, flush=True)
    for failure in honest.failures[:5]:
        print("   ", failure, file=sys.stderr)
    row = f"| {name} | {len(times)} | {len(honest.failures)} | {at(.5):.1f} | {at(.99):.1f} | {peak[0]:.0f} | {peak[1]} |"
    return row, len(honest.failures)


async def main(args):
    if args.hold:
        port, count, kind = args.hold
        return await idle(int(port), int(count), kind)
    folder = tempfile.mkdtemp(prefix="hookmoat-siege-")
    backend = await asyncio.start_server(serve_backend, "127.0.0.1", 0)
    port, https, admin = free_port(), free_port(), free_port()
    with open(f"{folder}/hookmoat.yaml", "w") as f:
        f.write(f"""listen:
  - {{ address: 127.0.0.1:{port} }}
  - {{ address: 127.0.0.1:{https}, tls: {{ certificate: tls.crt, private_key: tls.key, self_signed_if_missing: true }} }}
admin: 127.0.0.1:{admin}
https: allow
log: {{ requests: off }}
upstreams: {{ app: 'http://127.0.0.1:{backend.sockets[0].getsockname()[1]}' }}
routes: [{{ name: github, path: /hook, provider: github, secrets: [{{ env: SIEGE_SECRET }}], to: app }}]
""")
    log = open(f"{folder}/log", "w")
    child = subprocess.Popen([args.hookmoat, "run", "--config", f"{folder}/hookmoat.yaml"],
                             env={**os.environ, "SIEGE_SECRET": SECRET}, stderr=log, stdout=log)
    try:
        for _ in range(1000):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.01)
        honest = Honest(port, args.rate)
        url = f"http://127.0.0.1:{port}/hook"
        length = str(int(args.seconds) + 10)
        slow = lambda *more: ["slowhttptest", "-c", str(args.slow), "-r", "1000", "-l", length, "-u", url, *more]
        hold = lambda kind, at: [sys.executable, os.path.abspath(__file__), "--hold", str(at), str(args.idle), kind]
        attacks = [("nothing else", None), (f"{args.idle} connections that say nothing", hold("silent", port)),
                   (f"{args.idle} idle after a request", hold("used", port)),
                   (f"{args.idle} idle after a request, TLS", hold("tls", https))]
        if shutil.which("slowhttptest"):
            attacks += [("slow headers", slow("-H", "-i", "2")), ("slow body", slow("-B", "-i", "2", "-s", "8192")),
                        ("slow read", slow("-X", "-k", "3")), ("ranges", slow("-R"))]
        else:
            print("slowhttptest is not installed: only idle connections", file=sys.stderr)
        rows, failed = [], 0
        for name, command in attacks:
            row, failures = await attack(name, command, honest, child.pid, args.seconds)
            rows.append(row)
            failed += failures
        if child.poll() is not None:
            sys.exit("hookmoat ended")
        lines = [f"{args.slow} slow connections, {args.rate:g} signed events of 1 KiB a second for {args.seconds:g} s each.", "",
                 "| Meanwhile | answered | failed | p50 ms | p99 ms | memory, peak MiB | descriptors, peak |",
                 "|---|---:|---:|---:|---:|---:|---:|", *rows]
        print("\n".join(lines))
        if args.write:
            marked(args.write, BEGIN, END, lines)
        if failed:
            sys.exit(1)
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hookmoat", default="target/release/hookmoat")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rate", type=float, default=100)
    parser.add_argument("--idle", type=int, default=10_000)
    parser.add_argument("--slow", type=int, default=4000)
    parser.add_argument("--write")
    parser.add_argument("--hold", nargs=3, help=argparse.SUPPRESS)
    asyncio.run(main(parser.parse_args()))
