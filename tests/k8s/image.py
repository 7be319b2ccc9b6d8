#!/usr/bin/env python3
"""The image, as a cluster would run it. Usage: image.py [NAME]

Looks at what `make image` made and runs it with what the manifests promise: the user that the image names, a root file
system that nobody can write to, no capability, no new privileges, configuration, certificate and secret mounted. Done
with namespaces and chroot, since not every machine lets a container engine set limits. Needs root, buildah and openssl.
"""

import hashlib
import hmac
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cases import Cases, wait

ROOT = Path(__file__).resolve().parents[2]
NAME = sys.argv[1] if len(sys.argv) > 1 else "hookmoat:0.1.0"
SECRET = "8f742231b10e8888abcd99yyyzzz85a5"
# What a container gets: its own mounts, nothing to gain, nobody's user.
CONFINED = """
set -e
mount --bind "$1" "$1"
for part in etc/hookmoat run/tls run/secrets/hookmoat; do
    mount --bind "$2/$part" "$1/$part"
    mount -o remount,ro,bind "$1/$part"
done
mount -o remount,ro,bind "$1"
root=$1
shift 2
# The three that chroot itself needs are gone with the user.
exec setpriv --no-new-privs --bounding-set=-all,+sys_chroot,+setuid,+setgid chroot --userspec=65532:65532 "$root" "$@"
"""

case = Cases("image: ")


def buildah(*arguments):
    command = ["buildah", "--storage-driver", os.environ.get("STORAGE_DRIVER", "vfs"), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def main():
    container = buildah("from", NAME)
    folder = Path(tempfile.mkdtemp())
    process = served = None
    try:
        config = json.loads(buildah("inspect", "--type", "image", NAME))["OCIv1"]["config"]
        docker = json.loads(buildah("inspect", "--type", "image", NAME))["Docker"]["config"]
        case("runs as nobody", None if config["User"] == "65532:65532" else config["User"])
        case("starts the program", None if config["Entrypoint"] == ["/hookmoat"] and config["Cmd"][0] == "run" else str(config))
        labels = [f"org.opencontainers.image.{name}" for name in ("title", "description", "licenses", "version")]
        case("says what it is", None if all(config["Labels"].get(label) for label in labels) else str(config["Labels"]))
        check = (docker.get("Healthcheck") or {}).get("Test")
        case("has a health check", None if check and check[1:3] == ["/hookmoat", "health"] else str(check))

        mounted = Path(buildah("mount", container))
        files = sorted(str(path.relative_to(mounted)) for path in mounted.rglob("*") if path.is_file())
        case("holds the program and nothing that could be used beside it",
             None if files == ["LICENSE", "etc/ssl/certs/ca-certificates.crt", "hookmoat", "sbom.cdx.json"] else str(files))
        headers = subprocess.run(["readelf", "-l", "-d", mounted / "hookmoat"], capture_output=True, text=True).stdout
        case("the program is static", "it asks for a loader or a library" if re.search("INTERP|NEEDED", headers) else None)
        size = (mounted / "hookmoat").stat().st_size
        print(f"image: the program has {size / 1e6:.1f} MB")
        bill = json.loads((mounted / "sbom.cdx.json").read_text())
        names = {component["name"] for component in bill["components"]}
        case("its bill of materials names what is in it", None if {"pingora-core", "rustls", "ring", "tokio"} <= names else str(names)[:200])

        root = folder / "root"
        shutil.copytree(mounted, root, symlinks=True)
        given = folder / "given"
        for place in ("etc/hookmoat", "run/tls", "run/secrets/hookmoat"):
            (root / place).mkdir(parents=True)
            (given / place).mkdir(parents=True)
        # A container's runtime brings this one.
        (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
        port, admin, backend = free_port(), free_port(), free_port()
        text = (ROOT / "k8s/overlays/sidecar/hookmoat.yaml").read_text()
        text = text.replace("0.0.0.0:8443", f"127.0.0.1:{port}").replace("0.0.0.0:9901", f"127.0.0.1:{admin}")
        # A name, since a static program resolves names by itself.
        text = text.replace("http://127.0.0.1:3000", f"http://localhost:{backend}")
        (given / "etc/hookmoat/hookmoat.yaml").write_text(text)
        (given / "run/secrets/hookmoat/slack").write_text(SECRET)
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
                        "-subj", "/CN=hooks.example.com", "-keyout", given / "run/tls/tls.key", "-out", given / "run/tls/tls.crt"],
                       check=True, capture_output=True)
        subprocess.run(["chown", "-R", "65532:65532", given], check=True)
        subprocess.run(["chmod", "-R", "u=rX,go=", given / "run"], check=True)
        folder.chmod(0o755)

        def confined(*command):
            return ["unshare", "--mount", "sh", "-c", CONFINED, "sh", root, given, *command]

        def inside(*command):
            return subprocess.run(confined(*command), capture_output=True, text=True, timeout=30)

        served = subprocess.Popen([sys.executable, "-c", SERVER, str(backend)], stdout=subprocess.DEVNULL)
        wait("the backend", lambda: socket.create_connection(("127.0.0.1", backend), timeout=1).close() is None)
        log = (folder / "log").open("w")
        process = subprocess.Popen(confined("/hookmoat", *config["Cmd"]), stdout=log, stderr=log)
        try:
            wait("the image's readiness", lambda: inside("/hookmoat", "health", "--config", "/etc/hookmoat/hookmoat.yaml").returncode == 0)
        except SystemExit:
            print((folder / "log").read_text()[-3000:])
            raise
        case("its health check says that it is well")
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if ":\t" in line)
        case("has no privilege", None if status["Uid"].split() == ["65532"] * 4 and int(status["CapEff"], 16) == 0
             and int(status["CapPrm"], 16) == 0 and status["NoNewPrivs"] == "1" else str(status))
        mounts = [line.split() for line in Path(f"/proc/{process.pid}/mountinfo").read_text().splitlines()]
        own = {fields[4]: fields[5].split(",") for fields in mounts if fields[4].startswith(("/", str(root)))}
        there = {place: options for place, options in own.items() if place == "/" or place.startswith(("/etc/", "/run/"))}
        case("nothing can be written there", None if there and all("ro" in options for options in there.values()) else str(there))

        def send(secret):
            body, now = b'{"type":"event_callback","event_id":"Ev1"}', str(int(time.time()))
            mac = hmac.new(secret.encode(), b"v0:" + now.encode() + b":" + body, hashlib.sha256).hexdigest()
            connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=ssl._create_unverified_context())
            connection.request("POST", "/webhooks/slack", body, {
                "X-Slack-Signature": f"v0={mac}", "X-Slack-Request-Timestamp": now, "Content-Type": "application/json"})
            return connection.getresponse().status
        got = send(SECRET)
        case("a signed request reaches the backend", None if got == 200 else f"{got} {(folder / 'log').read_text()[-800:]}")
        got = send("wrong-secret-of-some-length")
        case("a forged one does not", None if got == 401 else str(got))
        process.terminate()
        case("ends by itself", None if process.wait(20) == 0 else str(process.returncode))
    finally:
        if served:
            served.kill()
        if process and process.poll() is None:
            process.kill()
        buildah("rm", container)
        shutil.rmtree(folder, ignore_errors=True)
    print(f"image: {case.passed} passed, {case.failed} failed")
    sys.exit(1 if case.failed else 0)


SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

main()
