"""Traces as a collector gets them: read with OpenTelemetry's own definitions, and taken by a collector. Called by check.py."""

import collections
import hashlib
import hmac
import json
import re
import subprocess
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SECRET = "a-secret-of-some-length"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CONFIGURATION = """
listen: [{{ address: 127.0.0.1:{http} }}]
admin: 127.0.0.1:{admin}
https: allow
tracing:
  otlp: {{ url: "http://127.0.0.1:{collector}", headers: {{ X-Token: {{ value: t1 }} }} }}
  attributes: {{ k8s.pod.name: {{ value: hookmoat-0 }} }}
queues: {{ inbox: {{ sqlite: {{ path: {folder}/inbox.db }} }} }}
upstreams: {{ app: "http://127.0.0.1:{app}" }}
routes:
  - {{ name: direct, path: /direct, provider: github, secrets: [{{ insecure_literal: {secret} }}], to: app }}
  - {{ name: later, path: /later, provider: github, secrets: [{{ insecure_literal: {secret} }}],
      deliver: {{ queue: inbox, to: app, retry: {{ first: 50ms }} }} }}
"""


def serve(answer):
    """A server on a free port that answers with the status that the function gives for path, headers and body."""
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            self.send_response(answer(self.path, self.headers, body))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def post(http, path, number, secret, headers):
    body = json.dumps({"number": number}).encode()
    own = {"X-Hub-Signature-256": "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest(),
           "X-GitHub-Delivery": f"evt-{number}"}
    request = urllib.request.Request(f"http://127.0.0.1:{http}{path}", body, {**own, **headers}, method="POST")
    try:
        return urllib.request.urlopen(request, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code


def real_collector(hookmoat, folder, ports, case, wait):
    """Rotel, an OTLP collector of somebody else's, takes every span."""
    import rotel
    http, admin, collector, other = ports
    folder, app = Path(folder), serve(lambda *_: 200)
    (folder / "hookmoat.yaml").write_text(CONFIGURATION.format(
        http=http, admin=admin, collector=collector, app=app.server_port, folder=folder, secret=SECRET))
    log, taken = (folder / "log").open("w"), folder / "collector"
    command = [Path(rotel.__file__).parent / "rotel-agent", "start", "--otlp-http-endpoint", f"127.0.0.1:{collector}",
               "--otlp-grpc-endpoint", f"127.0.0.1:{other}", "--exporter", "blackhole", "--debug-log", "traces"]
    started = [subprocess.Popen(command, stdout=taken.open("w"), stderr=subprocess.STDOUT),
               subprocess.Popen([hookmoat, "run", "-c", folder / "hookmoat.yaml"], stdout=log, stderr=log)]
    try:
        wait("hookmoat", lambda: urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=2).status == 200)
        for number in range(10):
            post(http, "/direct", number, SECRET, {})
        metrics = lambda: urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=2).read().decode()
        wait("all spans exported", lambda: "hookmoat_spans_exported_total 60\n" in metrics())
        count = lambda: sum(map(int, re.findall(r"spans=(\d+)", re.sub(r"\x1b\[[\d;]*m", "", taken.read_text()).replace("resource_spans", ""))))
        wait("all spans taken", lambda: count() >= 60)
        case("traces: a collector takes every span", None if count() == 60 else str(count()))
    finally:
        for process in started:
            process.terminate()
            process.wait(30)
        app.shutdown()
        log.close()


def run(hookmoat, folder, ports, case, wait):
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

    http, admin = ports
    folder = Path(folder)
    batches, parents, failures = [], collections.defaultdict(list), []

    def collect(path, headers, body):
        request = ExportTraceServiceRequest()
        request.ParseFromString(body)
        if path != "/v1/traces" or headers["content-type"] != "application/x-protobuf" or headers["x-token"] != "t1":
            failures.append(f"{path} {dict(headers)}")
        # Written anew it must be the same: nothing in it that the definitions do not know.
        clean = ExportTraceServiceRequest()
        clean.CopyFrom(request)
        clean.DiscardUnknownFields()
        if clean.SerializeToString(deterministic=True) != request.SerializeToString(deterministic=True):
            failures.append("fields that the definitions do not know")
        batches.append(request)
        return 503 if len(batches) == 1 else 200

    def backend(path, headers, _):
        parents[path].append(headers["traceparent"])
        return 500 if path == "/later" and len(parents[path]) == 1 else 200

    collector, app = serve(collect), serve(backend)
    (folder / "hookmoat.yaml").write_text(CONFIGURATION.format(
        http=http, admin=admin, collector=collector.server_port, app=app.server_port, folder=folder, secret=SECRET))
    log = (folder / "log").open("w")
    process = subprocess.Popen([hookmoat, "run", "-c", folder / "hookmoat.yaml"], stdout=log, stderr=log)

    def send(path, number, secret=SECRET, **headers):
        return post(http, path, number, secret, headers)

    try:
        wait("hookmoat", lambda: urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=2).status == 200)
        sent = f"00-{TRACE}-{PARENT}-01"
        send("/direct", 1, traceparent=sent, tracestate="vendor=x")
        send("/later", 2, traceparent=sent)
        send("/direct", 3, secret="another-secret-of-some-length")

        def spans():
            # The first batch was answered with 503 and comes again.
            return [span for batch in batches[1:] for resource in batch.resource_spans
                    for scope in resource.scope_spans for span in scope.spans]
        wait("all spans", lambda: len(parents["/later"]) == 2 and sum(span.name == "attempt" for span in spans()) == 2
             and any(span.name == "POST direct" and span.status.code for span in spans()) or len(spans()) >= 16)
        case("traces: what OpenTelemetry's definitions read", "; ".join(failures) or None)
        by_id = {span.span_id.hex(): span for span in spans()}
        value = lambda span, key: next((getattr(pair.value, pair.value.WhichOneof("value")) for pair in span.attributes
                                        if pair.key == key), None)
        resource = {pair.key: pair.value.string_value for pair in batches[-1].resource_spans[0].resource.attributes}
        wanted = {"service.name": "hookmoat", "k8s.pod.name": "hookmoat-0"}
        case("traces: say whose they are", None if wanted.items() <= resource.items() else str(resource))

        root = next(span for span in by_id.values() if value(span, "hookmoat.event_id") == "evt-1" and span.kind == Span.SPAN_KIND_SERVER)
        case("traces: the request is a child of its sender's span",
             None if (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, PARENT) else str(root))
        children = sorted((span for span in by_id.values() if span.parent_span_id == root.span_id),
                          key=lambda span: span.start_time_unix_nano)
        names = [span.name for span in children]
        case("traces: a child for each stage", None if names == ["screen", "body", "verify", "claim", "forward"] else str(names))
        edges = [root.start_time_unix_nano] + [span.end_time_unix_nano for span in children]
        starts = [span.start_time_unix_nano for span in children]
        case("traces: one stage after the other, within the request",
             None if edges[:-1] == starts and edges[-1] == root.end_time_unix_nano else f"{edges} {starts}")
        told = parents["/direct"][0].split("-")
        forward = by_id.get(told[2])
        case("traces: the backend's parent is the stage that asked it",
             None if told[1] == TRACE and forward is not None and forward.name == "forward" and forward.kind == Span.SPAN_KIND_CLIENT
             else str(told))

        enqueue = next(span for span in by_id.values() if span.name == "enqueue")
        attempts = sorted((span for span in by_id.values() if span.name == "attempt"), key=lambda span: span.start_time_unix_nano)
        right = (len(attempts) == 2 and all(span.parent_span_id == enqueue.span_id and span.trace_id.hex() == TRACE for span in attempts)
                 and [value(span, "http.response.status_code") for span in attempts] == [500, 200]
                 and [span.status.code for span in attempts] == [Status.STATUS_CODE_ERROR, Status.STATUS_CODE_UNSET]
                 and [value(span, "hookmoat.attempt") for span in attempts] == [1, 2]
                 and [parent.split("-")[2] for parent in parents["/later"]] == [span.span_id.hex() for span in attempts])
        case("traces: each attempt from the queue is a child of the request's", None if right else str(attempts))
        refused = next(span for span in by_id.values() if value(span, "hookmoat.outcome") == "signature_mismatch")
        case("traces: a refused request has a trace of its own, and no error of ours",
             None if not refused.parent_span_id and not refused.status.code and refused.trace_id.hex() != TRACE else str(refused))
        text = str(batches)
        case("traces: no secret in them", "there is one" if SECRET in text or "sha256=" in text else None)
    finally:
        process.terminate()
        process.wait(30)
        for server in (collector, app):
            server.shutdown()
        log.close()
