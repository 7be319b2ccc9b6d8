"""The status page in a real browser: what it shows, how soon, and that nothing a stranger sends becomes markup.

Called by check.py. With a path as second argument it writes the screenshot that the README shows there.
"""

import hashlib
import hmac
import http.client
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

SECRET = "a-secret-of-some-length"
HISTORY = 10_000
CONFIGURATION = """
listen: [{{ address: 127.0.0.1:{http} }}]
admin: {{ address: "127.0.0.1:{admin}", history: 10000 }}
https: allow
log: {{ requests: "off" }}
state: {{ sqlite: {{ path: {folder}/state.db }} }}
queues: {{ inbox: {{ sqlite: {{ path: {folder}/state.db }} }} }}
upstreams: {{ app: "http://127.0.0.1:{app}", crm: "http://127.0.0.1:{gone}" }}
routes:
  - {{ name: github, path: /webhooks/github, provider: github, secrets: [{{ insecure_literal: {secret} }}], to: app }}
  - {{ name: orders, path: /webhooks/orders, provider: github, secrets: [{{ insecure_literal: {secret} }}],
      deliver: {{ queue: inbox, to: app }} }}
  - {{ name: leads, path: /webhooks/leads, provider: github, secrets: [{{ insecure_literal: {secret} }}], to: crm }}
  - {{ name: slack, path: /webhooks/slack, provider: slack, secrets: [{{ insecure_literal: {secret} }}], to: app,
      allow: [192.0.2.0/24] }}
"""
# What somebody may send who wants the page to run it.
HOSTILE = '<img src=x onerror=alert(1)><script>document.title="owned"</script>'


def signed(body):
    return "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()


def send(url, headers, body=b"{}"):
    request = urllib.request.Request(url, body, headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def event(base, route, number, **headers):
    body = json.dumps({"number": number}).encode()
    own = {"X-Hub-Signature-256": signed(body), "X-GitHub-Delivery": f"evt-{number}", "X-GitHub-Event": "push"}
    return send(f"{base}/webhooks/{route}", {**own, **headers}, body)


def many(port, count):
    """Requests over one connection: ten thousand of them in some seconds."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for number in range(count):
        body = json.dumps({"filler": number}).encode()
        headers = {"X-GitHub-Delivery": f"filler-{number}", "X-Hub-Signature-256": signed(body)}
        connection.request("POST", "/webhooks/github", body, headers)
        connection.getresponse().read()
    connection.close()


def browser_path():
    for name in ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome"):
        if shutil.which(name):
            return shutil.which(name)
    # Playwright's own, which tests/setup.sh brings where the system has none.
    return None


def run(hookmoat, folder, ports, backend, case, wait, screenshot=None):
    from playwright.sync_api import sync_playwright

    port, admin, gone = ports
    folder = Path(folder)
    (folder / "hookmoat.yaml").write_text(
        CONFIGURATION.format(http=port, admin=admin, app=backend, gone=gone, folder=folder, secret=SECRET))
    log = (folder / "log").open("w")
    process = subprocess.Popen([hookmoat, "run", "-c", folder / "hookmoat.yaml", "--demo"], stdout=log, stderr=log,
                               stdin=subprocess.DEVNULL)
    base = f"http://127.0.0.1:{port}"
    try:
        wait("hookmoat", lambda: urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=2).status == 200)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1200, "height": 900})
            console, dialogs = [], []
            page.on("console", lambda message: console.append(f"{message.type}: {message.text}"))
            page.on("pageerror", lambda error: console.append(f"error: {error}"))
            page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
            page.goto(f"http://127.0.0.1:{admin}/status")
            page.wait_for_function("document.getElementById('ready').textContent === 'ready'")

            begun = time.monotonic()
            status = send(base + "/webhooks/github",
                          {"X-Hub-Signature-256": "sha256=" + "0" * 64, "X-GitHub-Delivery": "forged-1"})
            page.wait_for_selector("#requests li:has-text('signature_mismatch'):has-text('github')", timeout=10_000)
            took = time.monotonic() - begun
            case("status page: a refused request shows within two seconds",
                 None if status == 401 and took <= 2 else f"answered {status}, shown after {took:.1f} s")

            # Everything that a stranger chooses: event ID, type, path, headers, client address.
            sent = event(base, "github", HOSTILE, **{"X-GitHub-Delivery": HOSTILE, "X-GitHub-Event": HOSTILE,
                                                     "User-Agent": HOSTILE, "X-Forwarded-For": HOSTILE})
            send(base + "/webhooks/" + "%3Cscript%3Ealert(1)%3C/script%3E", {"User-Agent": HOSTILE})
            send(base + "/webhooks/github", {"X-Hub-Signature-256": HOSTILE, "X-GitHub-Delivery": HOSTILE})
            page.wait_for_selector("#requests li:has-text('onerror=alert(1)')", timeout=10_000)
            page.wait_for_timeout(1500)
            injected = page.evaluate("document.querySelectorAll('#requests img, #requests script').length")
            case("status page: hostile texts stay texts",
                 None if not injected and not dialogs and page.title() == "Hookmoat" else f"{injected} {dialogs}")
            case("status page: a hostile event is an event like another", None if sent in (200, 400) else str(sent))

            for number in range(30):
                event(base, ("github", "orders", "leads")[number % 3], number)
                if number % 5 == 0:
                    event(base, "github", 0)
                    send(base + "/webhooks/slack", {"X-Slack-Signature": "v0=" + "0" * 64})
                time.sleep(0.1)
            page.wait_for_selector("#requests li:has-text('address_not_allowed')", timeout=10_000)
            text = page.inner_text("main")
            for what in ("backend_unreachable", "duplicate", "queued", "inbox", "127.0.0.1", "accepted / s"):
                case(f"status page shows {what}", None if what in text or what.upper() in text.upper() else text[:600])
            if screenshot:
                page.evaluate("document.getElementById('filter').value = ''")
                page.screenshot(path=screenshot, clip={"x": 0, "y": 0, "width": 1200, "height": 900})

            many(port, HISTORY)
            wait("10,000 requests on the page", lambda: "10,000 remembered" in page.inner_text("#shown"))
            shown = page.locator("#requests li").count()
            case("status page: 10,000 requests, as many shown as can be read", None if shown == 100 else str(shown))
            page.fill("#filter", "filler-1234")
            wait("the filter", lambda: page.locator("#requests li").count() < 100)
            found = page.locator("#requests li").count()
            case("status page: finds one of 10,000", None if 1 <= found <= 2 else str(found))
            page.fill("#filter", "")
            page.click("#more")
            case("status page: goes back in time", None if page.locator("#requests li").count() == 200 else "no")
            # A page that is loaded with a full history.
            page.reload()
            wait("10,000 requests at once", lambda: "10,000 remembered" in page.inner_text("#shown"))

            page.set_viewport_size({"width": 375, "height": 720})
            wide = page.evaluate("document.documentElement.scrollWidth")
            case("status page: nothing is wider than a phone", None if wide <= 375 else f"{wide} px")
            case("status page: no word on the console", "; ".join(console[:5]) or None)

            foreign = page.evaluate(
                "performance.getEntriesByType('resource').map((one) => new URL(one.name).host)")
            strange = sorted(set(foreign) - {f"127.0.0.1:{admin}"})
            case("status page: asks nobody else", ", ".join(strange) or None)
            # A script that somebody brings into the page all the same does not run.
            page.evaluate("""() => { const script = document.createElement('script');
                script.textContent = 'document.title = "owned"'; document.body.append(script); }""")
            case("status page: its policy lets no other script run", None if page.title() == "Hookmoat" else "it ran")
            browser.close()
        leaked = re.findall(SECRET, urllib.request.urlopen(f"http://127.0.0.1:{admin}/status.json").read().decode())
        case("status page: no secret in its data", "the secret stands there" if leaked else None)
    finally:
        process.terminate()
        process.wait(20)
        log.close()
