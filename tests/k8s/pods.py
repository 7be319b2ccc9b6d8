#!/usr/bin/env python3
"""The life of pods, in network namespaces. Usage: pods.py PATH_OF_HOOKMOAT

A pod is a namespace with the shipped sidecar configuration in front of an application on loopback; the Service is a
balancer that knows of a pod being ready or gone only after a while, as a cluster does; senders live in a namespace of
their own. Tried: nothing reaches the application but the sidecar; the order of start and end that the manifests ask for;
rolling restarts while senders go on, after which every acknowledged event is at an application and nobody was refused.

HOOKMOAT_SOAK=1: twenty restarts of every pod instead of two. Needs `unshare` and `ip`, and the right to make namespaces;
nothing of it is seen outside. Prints a line for each case; the exit code says whether all held.
"""

import asyncio
import hashlib
import hmac
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from cases import Cases, wait

ROOT = Path(__file__).resolve().parents[2]
INSIDE = "HOOKMOAT_IN_NAMESPACES"
SECRET = "8f742231b10e8888abcd99yyyzzz85a5"
HOOKMOAT = Path(sys.argv[1]).resolve()
SERVICE = ("10.77.0.1", 8443)
SENDERS = 6
ROUNDS = 20 if os.environ.get("HOOKMOAT_SOAK") == "1" else 2
# What the manifests ask for, with the application's preStop shortened.
PRE_STOP = 1.5
# How long a cluster takes to tell its balancers that a pod has left. Shorter than preStop, which is there for this.
NOTICE = 0.7

case = Cases()


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)


# What runs inside namespaces: this file once more, with a word as its second argument.

def application(ledger):
    """On loopback, as the example's: writes down the ID of each event before it answers."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            with lock:
                file.write(self.headers["hookmoat-event-id"] + "\n")
                file.flush()
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    lock, file = threading.Lock(), open(ledger, "a")
    server = ThreadingHTTPServer(("127.0.0.1", 3000), Handler)
    # Ends what it has begun, as the example does on SIGTERM.
    server.daemon_threads = False
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever()
    os._exit(0)


def senders(result):
    """Signed events over new and kept connections until the file `result`.stop is there; then what became of them."""
    context = ssl._create_unverified_context()
    acknowledged, refused, retried = [], [], [0]
    stop = Path(result + ".stop")

    def one(name, keeps):
        connection, number = None, 0
        while not stop.exists():
            number += 1
            event = f"Ev{name}-{number}"
            body = json.dumps({"type": "event_callback", "event_id": event, "event": {"type": "message"}}).encode()
            now = str(int(time.time()))
            mac = hmac.new(SECRET.encode(), b"v0:" + now.encode() + b":" + body, hashlib.sha256).hexdigest()
            headers = {"X-Slack-Signature": f"v0={mac}", "X-Slack-Request-Timestamp": now,
                       "Content-Type": "application/json"}
            for attempt in range(2):
                fresh = connection is None
                try:
                    connection = connection or http.client.HTTPSConnection(*SERVICE, timeout=10, context=context)
                    connection.request("POST", "/webhooks/slack", body, headers)
                    answer = connection.getresponse()
                    answer.read()
                    (acknowledged if answer.status < 300 else refused).append((event, answer.status))
                    break
                except (OSError, http.client.HTTPException) as error:
                    connection.close()
                    connection = None
                    # A kept connection that was closed between two requests: every client makes a new one.
                    if fresh or attempt:
                        refused.append((event, repr(error)))
                        break
                    retried[0] += 1
            if connection and (not keeps or answer.getheader("connection") == "close"):
                connection.close()
                connection = None
            time.sleep(0.01)

    threads = [threading.Thread(target=one, args=(i, i % 2)) for i in range(SENDERS)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    Path(result).write_text(json.dumps({"acknowledged": [event for event, _ in acknowledged], "refused": refused,
                                        "retried": retried[0]}))


def reach(host, port):
    """Can a connection be made?"""
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        sys.exit(1)


# The cluster.

class Balancer:
    """The Service: new connections go round the pods that it knows of; what is open stays where it is."""

    def __init__(self):
        self.pods, self.turn = [], 0
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, daemon=True).start()
        asyncio.run_coroutine_threadsafe(asyncio.start_server(self.serve, *SERVICE), loop).result(10)

    async def serve(self, reader, writer):
        async def copy(source, sink):
            try:
                while data := await source.read(1 << 16):
                    sink.write(data)
                    await sink.drain()
            except OSError:
                pass
            finally:
                sink.close()
        pods = list(self.pods)
        self.turn += 1
        try:
            address = pods[self.turn % len(pods)].address
            up_reader, up_writer = await asyncio.open_connection(address, 8443)
        except (OSError, ZeroDivisionError):
            writer.transport.abort()
            return
        await asyncio.gather(copy(reader, up_writer), copy(up_reader, writer))


class Pod:
    """Sidecar first, the application once the sidecar's startup probe holds; on the way out the other way round."""

    count = 0

    def __init__(self, folder):
        Pod.count += 1
        self.name, self.address = f"pod{Pod.count}", f"10.77.0.{10 + Pod.count}"
        self.ledger = folder / f"{self.name}.ledger"
        self.ledger.touch()
        namespace(self.name, self.address)
        own = folder / self.name
        configuration(own)
        self.log = (folder / f"{self.name}.log").open("w")
        begun = time.monotonic()
        self.sidecar = self.run(HOOKMOAT, "run", "--config", own / "hookmoat.yaml")
        wait("the sidecar's startup probe", lambda: self.probe("/healthz") == 200)
        self.application = self.run(sys.executable, __file__, "-", "application", self.ledger)
        wait("the application", lambda: inside(self.name, "reach", "127.0.0.1", "3000"))
        wait("the readiness probe", lambda: self.probe("/readyz") == 200)
        self.took = time.monotonic() - begun

    def run(self, *command):
        command = ["ip", "netns", "exec", self.name, *map(str, command)]
        return subprocess.Popen(command, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)

    def probe(self, path):
        connection = http.client.HTTPConnection(self.address, 9901, timeout=2)
        connection.request("GET", path)
        return connection.getresponse().status

    def end(self, balancer):
        """As the kubelet does it, while the cluster takes its time to notice."""
        threading.Timer(NOTICE, lambda: balancer.pods.remove(self)).start()
        # The sidecar's own preStop, beside the application's.
        self.run(HOOKMOAT, "drain", "--pid", self.sidecar.pid).wait(5)
        time.sleep(PRE_STOP)
        self.application.terminate()
        code = self.application.wait(20)
        before = time.monotonic()
        self.sidecar.terminate()
        # shutdown: { pre_stop: 1s, grace: 8s }
        return code, self.sidecar.wait(12), time.monotonic() - before

    def kill(self):
        for process in (self.application, self.sidecar):
            process.kill()


def namespace(name, address):
    ip("netns", "add", name)
    ip("link", "add", f"{name}-0", "type", "veth", "peer", "name", "eth0", "netns", name)
    ip("link", "set", f"{name}-0", "master", "cluster", "up")
    for arguments in (["addr", "add", f"{address}/24", "dev", "eth0"], ["link", "set", "eth0", "up"], ["link", "set", "lo", "up"]):
        ip("-n", name, *arguments)


def inside(name, *arguments):
    command = ["ip", "netns", "exec", name, sys.executable, __file__, "-", *arguments]
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0


def configuration(folder):
    """The overlay's, with what is mounted in the pod put into this folder. Only the limit for one client is raised: all
    senders here have one address, the balancer's."""
    folder.mkdir()
    text = (ROOT / "k8s/overlays/sidecar/hookmoat.yaml").read_text()
    text = re.sub(r"/run/secrets/hookmoat/|/run/tls/", f"{folder}/", text)
    text = text.replace("tls.key }", "tls.key, self_signed_if_missing: true }")
    text = re.sub(r"requests: \d+, every: 1s, burst: \d+", "requests: 100000, every: 1s, burst: 100000", text)
    (folder / "slack").write_text(SECRET)
    (folder / "slack").chmod(0o600)
    (folder / "hookmoat.yaml").write_text(text)


def main():
    for command in (["mount", "-t", "tmpfs", "none", "/run"], ["mkdir", "/run/netns"],
                    ["ip", "link", "set", "lo", "up"],
                    ["ip", "link", "add", "cluster", "type", "bridge"],
                    ["ip", "addr", "add", f"{SERVICE[0]}/24", "dev", "cluster"], ["ip", "link", "set", "cluster", "up"]):
        subprocess.run(command, check=True)
    folder = Path(tempfile.mkdtemp())
    balancer, pods, every = Balancer(), [], []

    def start():
        pod = Pod(folder)
        every.append(pod)
        pods.append(pod)
        return pod
    try:
        first = start()
        namespace("senders", "10.77.0.2")
        case("the sidecar is reached from elsewhere",
             None if inside("senders", "reach", first.address, "8443") else "it is not")
        case("the application is reached through the sidecar alone",
             "port 3000 takes connections" if inside("senders", "reach", first.address, "3000") else None)
        case("the sidecar serves within its startup probe", None if first.took < 30 else f"{first.took:.1f} s")
        start()
        balancer.pods.extend(pods)
        result = folder / "result"
        load = subprocess.Popen(["ip", "netns", "exec", "senders", sys.executable, __file__, "-", "senders", str(result)])
        time.sleep(2)
        ends = []
        for _ in range(ROUNDS):
            for old in list(pods):
                # maxSurge: 1, maxUnavailable: 0
                balancer.pods.append(start())
                ends.append(old.end(balancer))
                pods.remove(old)
        time.sleep(1)
        Path(f"{result}.stop").touch()
        load.wait(30)
        told = json.loads(result.read_text())
        delivered = [line for pod in every for line in pod.ledger.read_text().split()]
        lost = set(told["acknowledged"]) - set(delivered)
        twice = len(delivered) - len(set(delivered))
        print(f"pods: {len(every)} pods, {len(ends)} ended, {len(told['acknowledged'])} events acknowledged, "
              f"{len(told['refused'])} refused, {told['retried']} sent again on a new connection, {len(delivered)} delivered, "
              f"{twice} of them twice; the longest drain took {max(end[2] for end in ends):.1f} s")
        case("senders went on all the time", None if len(told["acknowledged"]) > 100 * ROUNDS else str(len(told["acknowledged"])))
        case("no acknowledged event is lost", ", ".join(sorted(lost)[:5]) or None)
        case("no honest request is refused", str(told["refused"][:5]) if told["refused"] else None)
        # Only what was sent again may have come twice: its first answer was cut.
        case("nothing is delivered twice but what was sent twice", None if twice <= told["retried"] else str(twice))
        bad = [end for end in ends if end[0] != 0 or end[1] != 0 or end[2] > 9]
        case("every pod ended by itself, within its grace period", str(bad[:3]) if bad else None)
    finally:
        for pod in every:
            pod.kill()
        if case.failed:
            for pod in every:
                print(f"-- {pod.name}\n" + "\n".join([line for line in Path(pod.log.name).read_text().splitlines() if "\"status\":200" not in line][-10:]))
        subprocess.run(["rm", "-rf", folder])
    sys.exit(1 if case.failed else 0)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        {"application": application, "senders": senders, "reach": reach}[sys.argv[2]](*sys.argv[3:])
    elif os.environ.get(INSIDE):
        main()
    else:
        command = ["unshare", "--map-root-user", "--net", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child"]
        sys.exit(subprocess.run([*command, sys.executable, __file__, sys.argv[1]], env={**os.environ, INSIDE: "1"}).returncode)
