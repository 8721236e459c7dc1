#!/usr/bin/env python3
"""Requests that mean no good, one after the other, to a server that is running: each has to be refused, with a status from 400 to
499, and within a time. Prints what was refused latest and the worst time of several rounds. Needs Python alone.

    python3 scripts/serve_hostile.py http://127.0.0.1:8080 --rounds 5 --most 200

The same kinds of requests are asked for their exact status, without a clock, by crates/serve/tests/integration/hostile.rs.
"""

import argparse
import json
import socket
import time
import urllib.parse
import urllib.request


def heads(host: str, key: str) -> dict[str, bytes]:
    """Requests about who asks, and how."""

    def ask(method: str, path: str, *headers: str, host: str = host) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *key.splitlines(), *headers]
        return "\r\n".join([*lines, "", ""]).encode()

    models, score = "/v1/models", "POST /v1/score HTTP/1.1\r\nHost: localhost\r\n" + (key + "\r\n" if key else "")
    return {
        "the name of another host": ask("GET", models, host="evil.example"),
        "a name that begins like ours": ask("GET", models, host="127.0.0.1.evil.example:80"),
        "a page of another site": ask("GET", models, "Origin: http://evil.example"),
        "a page without a site": ask("GET", models, "Origin: null"),
        "the page of another site at /": ask("GET", "/", host="evil.example"),
        "another host in the address": ask("GET", "http://evil.example/v1/models"),
        "two hosts": ask("GET", models, "Host: evil"),
        "no host": b"GET /v1/models HTTP/1.1\r\nConnection: close\r\n\r\n",
        "many headers": ask("GET", models, *(f"x-{i}: 1" for i in range(500))),
        "a long header": ask("GET", models, f"x: {'y' * 200_000}"),
        "a long address": ask("GET", "/" + "a" * 100_000),
        "no HTTP": b"hello\r\n\r\n",
        "another version": b"GET / HTTP/9.9\r\n\r\n",
        "a compressed body": f"{score}Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x08\x08".encode(),
        "chunks that are compressed": f"{score}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n".encode(),
        "two lengths": f"{score}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}".encode(),
        "a negative length": f"{score}Content-Length: -1\r\n\r\n".encode(),
        "a body of 1 GB that never comes": f"{score}Content-Length: 1000000000\r\n\r\n".encode(),
        "a path that leads up": ask("GET", "/../../etc/passwd"),
        "a path that leads up, written otherwise": ask("GET", "/v1/models/%2e%2e%2f%2e%2e%2fetc"),
        "unloading what leads up": ask("DELETE", "/v1/adapters/..%2f..%2fetc"),
        "a method that is none": ask("BREW", models),
        "a page that is to be written": ask("POST", "/", "Content-Length: 0"),
    }


def bodies(host: str, key: str, model: str) -> dict[str, bytes]:
    """Requests whose bodies are the matter."""

    def post(path: str, body: bytes | dict) -> bytes:
        body = json.dumps(body).encode() if isinstance(body, dict) else body
        lines = [f"POST /v1/{path} HTTP/1.1", f"Host: {host}", "Connection: close", *key.splitlines()]
        return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body

    def chat(content="x", **more) -> bytes:
        return post("chat/completions", {"model": model, "messages": [{"role": "user", "content": content}]} | more)

    def text(prompt, **more) -> bytes:
        return post("completions", {"model": model, "prompt": prompt} | more)

    def schema(schema) -> dict:
        return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}

    deep = {"type": "string"}
    for _ in range(200):
        deep = {"type": "array", "items": deep}
    wide = {f"field_{i}": {"type": "string", "minLength": 100} for i in range(20_000)}
    picture = [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]
    return {
        "no body": post("chat/completions", b""),
        "deep JSON": post("chat/completions", b'{"model": ' + b"[" * 500_000),
        "bad UTF-8": post("chat/completions", b'{"model": "\xff\xfe"}'),
        "half a surrogate": post("chat/completions", b'{"model": "\\ud800"}'),
        "zeros": post("chat/completions", bytes(1000)),
        "a list": post("chat/completions", b"[]"),
        "a large body": post("chat/completions", b" " * (5 << 20)),
        "an adapter's path that leads up": post("adapters", {"name": "x", "path": "../../etc"}),
        "an adapter's name that leads up": post("adapters", {"name": "../x", "path": "x"}),
        "a long text without a blank": text("a" * 3_000_000),
        "no such tokens": text([4_000_000_000]),
        "a huge n": text("x", n=10**9),
        "a model that is a path": post("completions", {"model": "../../etc/passwd", "prompt": "x"}),
        "many texts": post("embeddings", {"model": model, "input": ["x"] * 100_000}),
        "an empty text": post("embeddings", {"model": model, "input": ""}),
        "many tokens": chat(max_tokens=9 * 10**18),
        "tokens below none": chat(max_tokens=-5),
        "a temperature that is none": chat(temperature=-1),
        "many stop strings": chat(stop=["x"] * 1000),
        "biases of no tokens": chat(logit_bias={"999999999": 1}),
        "a field that nobody reads": chat(best_effort=True),
        "many messages": chat(messages=[{"role": "user", "content": "x"}] * 10_000),
        "a picture": chat(picture),
        "a very long prompt": chat("word " * 600_000),
        "a long prompt": chat("word " * 50_000),
        "a deep schema": chat(response_format=schema(deep)),
        "a wide schema": chat(response_format=schema({"type": "object", "properties": wide})),
        "a long regular expression": chat(regex="(a|b*)+" * 100_000),
        "a regular expression that looks back": chat(regex="(a)\\1"),
    }


def send(place: urllib.parse.SplitResult, request: bytes) -> tuple[int, float]:
    """The status of the answer, 0 for none, and how long it took."""
    with socket.create_connection((place.hostname, place.port), timeout=30) as connection:
        begun = time.monotonic()
        try:
            connection.sendall(request)
        except (BrokenPipeError, ConnectionResetError):
            pass  # The server has answered already.
        answer = b""
        try:
            while b"\r\n" not in answer and (piece := connection.recv(1 << 16)):
                answer += piece
        except ConnectionResetError:
            pass
        took = time.monotonic() - begun
    return (int(answer.split()[1]) if answer.startswith(b"HTTP/") else 0), took


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("server", help="address of the server")
    arguments.add_argument("--rounds", type=int, default=5, help="how often all are sent")
    arguments.add_argument("--most", type=float, default=200, help="milliseconds that a refusal may take")
    arguments.add_argument("--key", help="key of the server")
    given = arguments.parse_args()
    place = urllib.parse.urlsplit(given.server)
    key = f"Authorization: Bearer {given.key}" if given.key else ""
    headers = dict([key.split(": ")]) if key else {}
    listed = urllib.request.urlopen(urllib.request.Request(f"{given.server}/v1/models", headers=headers))
    model = json.load(listed)["data"][0]["id"]
    requests = heads(place.netloc, key) | bodies(place.netloc, key, model)
    wrong, times = [], {}
    for _ in range(given.rounds):
        for what, request in requests.items():
            status, took = send(place, request)
            times[what] = max(times.get(what, 0), took)
            if not 400 <= status < 500:
                wrong.append(f"{what}: status {status}")
    latest = sorted(times.items(), key=lambda entry: -entry[1])
    for what, took in latest[:5]:
        print(f"{took * 1000:8.1f} ms  {what}")
    print(f"{len(requests)} requests, {given.rounds} times: the worst took {latest[0][1] * 1000:.0f} ms, the middle one {latest[len(latest) // 2][1] * 1000:.1f} ms")
    wrong += [f"{what}: {took * 1000:.0f} ms" for what, took in latest if took * 1000 > given.most]
    for one in dict.fromkeys(wrong):
        print("wrong:", one)
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
