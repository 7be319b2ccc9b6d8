#!/usr/bin/env python3
"""Holds everything under k8s/ to what it claims. Usage: check.py PATH_OF_HOOKMOAT

Manifests and the rendered chart against the strict schemas of current Kubernetes versions, shipped configurations by
`hookmoat check`, rules by promtool, every query of rules and dashboard by a real Prometheus that scrapes a real
Hookmoat, the status page by a real browser, traces by OpenTelemetry's own definitions, the bill of materials against CycloneDX's
schema, and the life of pods in namespaces.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

import helm_python
import kubernetes_validate
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

import page
import traces

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
CHART = K8S / "chart" / "hookmoat"
MONITORING = K8S / "monitoring"
HOOKMOAT = Path(sys.argv[1]).resolve()
# The one that tests/setup.sh brings.
KUBECTL = Path(sys.executable).parent / "kubectl"
# The oldest that has native sidecars, and the newest that the schemas know.
VERSIONS = ["1.29.0", "1.33.0", "1.37.0"]

passed = failed = 0


def case(name, problem=None):
    """Counts a case; `problem` says what is wrong with it."""
    global passed, failed
    if problem:
        failed += 1
        print(f"FAILED {name}: {problem}")
    else:
        passed += 1


def run(*command, **options):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)


# Kinds that are not Kubernetes' own: the keys that may stand where, as their definitions have them. `*` takes anything.
FOREIGN = {
    "PodMonitor": {"selector": "*", "namespaceSelector": "*", "jobLabel": "*", "podMetricsEndpoints": [
        {"port": "*", "path": "*", "interval": "*", "scheme": "*"}]},
    "PrometheusRule": {"groups": [{"name": "*", "interval": "*", "rules": [
        {"record": "*", "alert": "*", "expr": "*", "for": "*", "labels": "*", "annotations": "*"}]}]},
    "Certificate": {"secretName": "*", "dnsNames": "*", "duration": "*", "renewBefore": "*", "issuerRef":
                    {"kind": "*", "name": "*", "group": "*"},
                    "privateKey": {"algorithm": "*", "size": "*", "rotationPolicy": "*"}},
    "HTTPRoute": {"parentRefs": "*", "hostnames": "*", "rules": [
        {"matches": "*", "backendRefs": "*", "timeouts": {"request": "*", "backendRequest": "*"}, "filters": "*"}]},
    "TLSRoute": {"parentRefs": "*", "hostnames": "*", "rules": [{"backendRefs": "*"}]},
}


def unknown_keys(value, shape, at="spec"):
    if shape == "*":
        return []
    if isinstance(shape, list):
        return [found for i, item in enumerate(value) for found in unknown_keys(item, shape[0], f"{at}[{i}]")]
    found = [f"{at}.{key}" for key in value if key not in shape]
    return found + [deep for key in value if key in shape for deep in unknown_keys(value[key], shape[key], f"{at}.{key}")]


def validate(name, text):
    """Every document against every version; the documents."""
    documents = [document for document in yaml.safe_load_all(text) if document]
    case(f"{name}: holds documents", None if documents else "nothing in it")
    for document in documents:
        what = f"{name}: {document.get('kind')} {document.get('metadata', {}).get('name')}"
        if document.get("kind") in FOREIGN:
            unknown = unknown_keys(document["spec"], FOREIGN[document["kind"]])
            case(what, f"unknown {', '.join(unknown)}" if unknown else None)
            continue
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(document, version, strict=True)
                case(f"{what} in {version}")
            except Exception as error:  # its errors have no common class
                case(f"{what} in {version}", str(error).splitlines()[0])
    return documents


def check_configuration(name, text, folder):
    """`hookmoat check`, with everything that is mounted where it runs put into a folder here."""
    mounted = sorted(set(re.findall(r"(?:/run/tls|/run/secrets|/var/lib)/[\w./-]+", text)))
    for path in mounted:
        here = folder / path.lstrip("/")
        here.parent.mkdir(parents=True, exist_ok=True)
        if path.startswith("/run/secrets"):
            here.write_text("whsec_c2VjcmV0LW9mLXNvbWUtbGVuZ3Ro")
            here.chmod(0o600)
    text = re.sub(r"(/run/tls|/run/secrets|/var/lib)/", lambda match: f"{folder}{match[1]}/", text)
    text = text.replace("tls.key }", "tls.key, self_signed_if_missing: true }")
    text = re.sub(r"^(\s*)private_key: (\S+tls\.key)$", r"\1private_key: \2\n\1self_signed_if_missing: true", text,
                  flags=re.M)
    path = folder / "hookmoat.yaml"
    path.write_text(text)
    result = run(HOOKMOAT, "check", "-c", path)
    case(f"{name}: hookmoat check", None if result.returncode == 0 else result.stdout + result.stderr)


def check_configurations(name, documents):
    for document in documents:
        text = (document.get("data") or {}).get("hookmoat.yaml") if document["kind"] == "ConfigMap" else None
        if text:
            with tempfile.TemporaryDirectory() as folder:
                check_configuration(name, text, Path(folder))


def pods(documents):
    for document in documents:
        if document["kind"] in ("Deployment", "StatefulSet"):
            yield document["metadata"]["name"], document["spec"]["template"]["spec"]


def hardened(name, documents):
    """What every pod that we ship promises, whatever the schema allows."""
    for pod, spec in pods(documents):
        containers = spec["containers"] + spec.get("initContainers", [])
        security = spec.get("securityContext", {})
        problems = []
        if not security.get("runAsNonRoot") or security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            problems.append("pod may run as root or without seccomp")
        if spec.get("automountServiceAccountToken") is not False:
            problems.append("has a token for the API")
        for container in containers:
            own = container.get("securityContext", {})
            if (own.get("allowPrivilegeEscalation") is not False or not own.get("readOnlyRootFilesystem")
                    or own.get("capabilities", {}).get("drop") != ["ALL"]):
                problems.append(f"container {container['name']} is not confined")
            if "memory" not in container.get("resources", {}).get("limits", {}):
                problems.append(f"container {container['name']} has no limit of memory")
        case(f"{name}: pod {pod} is confined", "; ".join(problems) or None)
        hookmoat = next((one for one in containers if one["name"] == "hookmoat"), None)
        if hookmoat:
            sidecar = hookmoat in spec.get("initContainers", [])
            case(f"{name}: {pod} is a native sidecar or alone",
                 None if (hookmoat.get("restartPolicy") == "Always") == sidecar else "restartPolicy")
            drains = (hookmoat.get("lifecycle") or {}).get("preStop", {}).get("exec", {}).get("command") == ["/hookmoat", "drain"]
            case(f"{name}: a sidecar in {pod} drains from the pod's end on", None if drains == sidecar else "preStop")
            probes = {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
            wrong = [probe for probe, path in probes.items() if hookmoat[probe]["httpGet"]["path"] != path]
            case(f"{name}: probes of {pod}", ", ".join(wrong) or None)
            mounts = [mount for mount in hookmoat["volumeMounts"] if "subPath" in mount]
            case(f"{name}: {pod} sees new versions of its files", f"subPath: {mounts}" if mounts else None)


def overlays():
    for folder in sorted((K8S / "overlays").iterdir()):
        if not (folder / "hookmoat.yaml").exists():
            continue
        name = f"overlays/{folder.name}"
        built = run(KUBECTL, "kustomize", folder)
        case(f"{name}: kubectl kustomize", None if built.returncode == 0 else built.stderr)
        documents = validate(name, built.stdout)
        check_configurations(name, documents)
        hardened(name, documents)
        if folder.name == "sidecar":
            service = next(document for document in documents if document["kind"] == "Service")
            targets = [port["targetPort"] for port in service["spec"]["ports"]]
            case(f"{name}: the Service points at the sidecar alone", None if targets == ["https"] else str(targets))
    built = run(KUBECTL, "kustomize", MONITORING)
    case("monitoring: kubectl kustomize", None if built.returncode == 0 else built.stderr)
    validate("monitoring", built.stdout)
    for path in [*sorted((K8S / "edge").glob("*.yaml")), *sorted(K8S.glob("*/*.example.yaml")),
                 *sorted(K8S.glob("overlays/*/*.example.yaml"))]:
        validate(str(path.relative_to(K8S)), path.read_text())
    # The test would be worth nothing if the validator let this pass.
    wrong = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"port": []}}
    try:
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)
        case("an unknown field is an error", "it passed")
    except Exception:
        case("an unknown field is an error")


VALUES = {
    "defaults": {},
    "sidecar": {"app": {"containers": [{
        "name": "app", "image": "app:1", "resources": {"limits": {"memory": "64Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                            "capabilities": {"drop": ["ALL"]}}}]}},
    "everything": {
        "replicas": 3, "config": {"state": {"redis": {"url": "redis://redis:6379"}}}, "image": {"repository": "example.test/hookmoat", "digest": "sha256:" + "0" * 64},
        "imagePullSecrets": [{"name": "pull"}], "service": {"type": "LoadBalancer", "externalTrafficPolicy": "Local",
                                                            "annotations": {"a": "b"}},
        "autoscaling": {"enabled": True}, "monitoring": {"podMonitor": True, "prometheusRule": True, "dashboard": True},
        "certificate": {"enabled": True, "dnsNames": ["hooks.example.com"],
                        "issuerRef": {"kind": "ClusterIssuer", "name": "x"}},
        "nodeSelector": {"a": "b"}, "tolerations": [{"key": "a", "operator": "Exists"}], "podLabels": {"x": "y"},
        "podAnnotations": {"x": "y"}, "extraEnv": [{"name": "A", "value": "b"}],
        "affinity": {"podAntiAffinity": {}}},
    "volume": {"persistence": {"enabled": True, "storageClassName": "fast"}},
    "plain": {"tlsSecretName": "", "service": {"port": 80, "targetPort": 8080}, "networkPolicy": {"enabled": False},
              "podDisruptionBudget": {"enabled": False}},
}
REFUSED = {
    "an unknown value": {"replica": 2},
    "a port that is none": {"service": {"port": 70000}},
    "no route": {"config": {"routes": []}},
    "a volume with two owners": {"replicas": 2, "persistence": {"enabled": True}},
    "a volume that scales": {"autoscaling": {"enabled": True}, "persistence": {"enabled": True}},
    "replicas that remember each for itself": {"replicas": 2},
    "a scaling memory that nobody shares": {"autoscaling": {"enabled": True}},
    "a certificate for nobody": {"certificate": {"enabled": True}},
}


def chart():
    errors = helm_python.lint(str(CHART))["errors"]
    case("chart: lint", str(errors) if errors else None)
    with helm_python.Chart.load(str(CHART)) as loaded:
        for name, values in VALUES.items():
            try:
                loaded.validate_schema(values)
                rendered = loaded.render(values, name="hooks", namespace="web")
            except Exception as error:
                case(f"chart with {name}", str(error))
                continue
            manifests = [text for path, text in rendered.items() if path.endswith(".yaml")]
            documents = validate(f"chart with {name}", "\n---\n".join(manifests))
            check_configurations(f"chart with {name}", documents)
            hardened(f"chart with {name}", documents)
        for name, values in REFUSED.items():
            try:
                loaded.validate_schema(values)
                loaded.render(values, name="hooks", namespace="web")
                case(f"chart refuses {name}", "it was rendered")
            except Exception:
                case(f"chart refuses {name}")


def rules():
    for command in (["check", "rules", MONITORING / "rules.yaml"], ["test", "rules", MONITORING / "rules_test.yaml"]):
        result = run("promtool", *command, cwd=MONITORING)
        case(f"promtool {command[0]} rules", None if result.returncode == 0 else result.stdout + result.stderr)
    groups = yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"]
    wrapped = yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())["spec"]["groups"]
    case("prometheusrule.yaml says what rules.yaml says", None if groups == wrapped else "they differ")
    for name in ("rules.yaml", "dashboard.json"):
        same = (CHART / "files" / name).read_text() == (MONITORING / name).read_text()
        case(f"the chart's {name} is the shipped one", None if same else "they differ")
    made = run(sys.executable, MONITORING / "dashboard.py").stdout
    same = made == (MONITORING / "dashboard.json").read_text()
    case("dashboard.json is what dashboard.py writes", None if same else "run it again")
    tested = (MONITORING / "rules_test.yaml").read_text()
    runbooks = (K8S / "OPERATIONS.md").read_text()
    for rule in (rule for group in groups for rule in group["rules"] if "alert" in rule):
        alert = rule["alert"]
        case(f"{alert} is tested", None if f"alertname: {alert}" in tested else "no case in rules_test.yaml")
        anchor = rule["annotations"]["runbook"]
        right = anchor == f"k8s/OPERATIONS.md#{alert.lower()}" and f"### {alert}\n" in runbooks
        case(f"{alert} has a runbook", None if right else anchor)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def get(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)


def wait(what, holds, seconds=60):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            value = holds()
            if value:
                return value
        except OSError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"{what} did not come about in {seconds} s")


CONFIGURATION = """
listen: [{{ address: 127.0.0.1:{http} }}]
admin: 127.0.0.1:{admin}
https: allow
# The demo backend takes spans as it takes everything.
tracing: {{ otlp: {{ url: "http://127.0.0.1:{app}" }} }}
state: {{ sqlite: {{ path: {folder}/state.db }} }}
queues: {{ inbox: {{ sqlite: {{ path: {folder}/state.db }} }} }}
upstreams: {{ app: "http://127.0.0.1:{app}" }}
routes:
  - {{ name: github, path: /github, provider: github, secrets: [{{ insecure_literal: a-secret-of-some-length }}], to: app }}
  - {{ name: later, path: /later, provider: github, secrets: [{{ insecure_literal: a-secret-of-some-length }}],
      deliver: {{ queue: inbox, to: app }} }}
"""


def prometheus():
    """Every expression of rules and dashboard, asked of a real Prometheus that scraped a real Hookmoat."""
    folder = Path(tempfile.mkdtemp())
    http, admin, app, port = (free_port() for _ in range(4))
    started = []
    try:
        (folder / "hookmoat.yaml").write_text(
            CONFIGURATION.format(http=http, admin=admin, app=app, folder=folder))
        log = (folder / "log").open("w")
        started.append(subprocess.Popen([HOOKMOAT, "run", "-c", folder / "hookmoat.yaml", "--demo"], stdout=log,
                                        stderr=log, stdin=subprocess.DEVNULL))
        try:
            wait("hookmoat", lambda: urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=2).status == 200)
        except SystemExit:
            print((folder / "log").read_text())
            raise
        (folder / "prometheus.yml").write_text(yaml.safe_dump({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(MONITORING / "rules.yaml")],
            "scrape_configs": [{"job_name": "web/hookmoat", "static_configs": [
                {"targets": [f"127.0.0.1:{admin}"], "labels": {"namespace": "web"}}]}]}))
        started.append(subprocess.Popen(
            ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
             f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=exemplar-storage"], stdout=log, stderr=log))
        api = f"http://127.0.0.1:{port}/api/v1/"
        targets = lambda: get(api + "targets?state=active")["data"]["activeTargets"]
        wait("prometheus", lambda: any(target["health"] == "up" for target in targets()))
        for _ in range(3):
            run(HOOKMOAT, "send", "github", "-n", "5", "-c", folder / "hookmoat.yaml")
            run(HOOKMOAT, "send", "later", "-n", "5", "-c", folder / "hookmoat.yaml")
            run(HOOKMOAT, "send", "github", "--tamper", "-c", folder / "hookmoat.yaml")
            time.sleep(1.5)

        def ask(expression):
            variables = {"job": ".*", "namespace": ".*", "route": ".*", "__rate_interval": "1m", "__interval": "1m"}
            for name, value in variables.items():
                expression = expression.replace("$" + name, value)
            url = api + "query?" + urllib.parse.urlencode({"query": expression})
            try:
                return get(url)["data"]["result"]
            except urllib.error.HTTPError as error:
                return json.load(error).get("error", str(error))

        url = api + "query_exemplars?" + urllib.parse.urlencode({
            "query": "hookmoat_request_duration_seconds_bucket", "start": time.time() - 600, "end": time.time()})
        found = wait("exemplars", lambda: get(url)["data"], 30)
        traced = [one["labels"].get("trace_id", "") for series in found for one in series["exemplars"]]
        case("prometheus keeps traces beside buckets", None if traced and all(re.fullmatch("[0-9a-f]{32}", one) for one in traced) else str(found))
        known = set(get(api + "label/__name__/values")["data"])
        dashboard = json.loads((MONITORING / "dashboard.json").read_text())
        expressions = [(panel["title"], target["expr"]) for panel in dashboard["panels"]
                       for target in panel.get("targets", [])]
        groups = yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"]
        expressions += [(rule.get("record") or rule["alert"], rule["expr"]) for group in groups for rule in group["rules"]]
        sources = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.rs"))
        for title, expression in expressions:
            result = ask(expression)
            case(f"query of {title}", result if isinstance(result, str) else None)
            # A name that nothing registers is a query that never has an answer.
            for name in re.findall(r"\bhookmoat_\w+", re.sub(r"\w+:hookmoat_\w+:\w+", "", expression)):
                base = re.sub(r"_(bucket|count|sum)$", "", name)
                case(f"{name} exists", None if name in known or f'"{base}"' in sources else "nothing registers it")
        # Traffic that was sent has to show.
        for title in ("Requests", "Requests by route", "Requests by outcome", "Refused for the signature",
                      "99th percentile by stage", "Events in the queue", "Attempts", "Time until durable",
                      "Event IDs held", "Body bytes", "Requests by sender", "Refused by sender", "route:hookmoat_requests:rate5m"):
            expression = dict(expressions)[title]
            answer = wait(f"data of {title}", lambda: ask(expression), 30)
            case(f"data of {title}", answer if isinstance(answer, str) else None)
        for title in ("HookmoatBackendFailing", "HookmoatQueueDown", "HookmoatReloadFailing", "HookmoatRouteNotReady",
                      "HookmoatDown", "HookmoatOverload"):
            answer = ask(dict(expressions)[title])
            case(f"{title} is silent when all is well", str(answer) if answer else None)
    finally:
        for process in started:
            process.terminate()
            process.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


def status_page():
    folder = tempfile.mkdtemp()
    try:
        ports = [free_port() for _ in range(3)]
        page.run(HOOKMOAT, folder, ports, free_port(), case, wait, sys.argv[2] if len(sys.argv) > 2 else None)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def tracing():
    folder = tempfile.mkdtemp()
    try:
        traces.run(HOOKMOAT, folder, [free_port(), free_port()], case, wait)
        traces.real_collector(HOOKMOAT, folder, [free_port() for _ in range(4)], case, wait)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def bill_of_materials():
    """What a scanner reads must be what CycloneDX says; the same input gives the same bytes."""
    first, second = (run(sys.executable, K8S / "image" / "sbom.py") for _ in range(2))
    case("sbom: written", first.stderr if first.returncode else None)
    case("sbom: the same twice", None if first.stdout == second.stdout else "they differ")
    validator = JsonStrictValidator(SchemaVersion.V1_5)
    wrong = validator.validate_str(first.stdout)
    case("sbom: as the schema of CycloneDX 1.5 says", str(wrong)[:500] if wrong else None)
    bill = json.loads(first.stdout)
    del bill["components"][0]["name"]
    case("sbom: a component without a name is an error", None if validator.validate_str(json.dumps(bill)) else "it passed")


def pods_live_and_end():
    """In network namespaces, which pods.py makes for itself."""
    result = run(sys.executable, ROOT / "tests/k8s/pods.py", HOOKMOAT)
    print(result.stdout, end="")
    lines = re.findall(r"^(ok|FAILED) (.+?)(?:: (.*))?$", result.stdout, re.M)
    for how, name, problem in lines:
        case(f"pods: {name}", None if how == "ok" else problem or "failed")
    case("pods: all of it ran", None if result.returncode == 0 and len(lines) >= 8 else result.stderr[-2000:] or result.stdout[-2000:])


for part in (overlays, chart, rules, prometheus, status_page, tracing, bill_of_materials, pods_live_and_end):
    begun = time.monotonic()
    part()
    print(f"{part.__name__}: {time.monotonic() - begun:.0f} s")
print(f"k8s: {passed} passed, {failed} failed")
print(f"{passed} passed, {failed} failed")
sys.exit(1 if failed else 0)
