"""What the benchmarks in Python share: signed events, a backend that answers at once, tables in documents."""
import asyncio, hashlib, hmac, json, socket

SECRET = "a-secret-of-some-length"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


async def serve_backend(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(l.split(b":")[1]) for l in head.lower().split(b"\r\n") if l.startswith(b"content-length:"))
            await reader.readexactly(length)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()
    except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
        pass
    finally:
        writer.close()


def request(tag):
    body = json.dumps({"event": tag, "text": "x" * 900}).encode()
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    return (f"POST /hook HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nX-GitHub-Delivery: {tag}\r\n"
            f"X-Hub-Signature-256: sha256={signature}\r\nContent-Length: {len(body)}\r\n\r\n").encode() + body


def marked(path, begin, end, lines):
    """Puts the lines between two marks of a document."""
    before, rest = open(path).read().split(begin)
    text = before + begin + "\n\n" + "\n".join(lines) + "\n\n" + end + rest.split(end)[1]
    open(path, "w").write(text)
