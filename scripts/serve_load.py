#!/usr/bin/env python3
"""Load for a server that is running: many clients at once, of which some go away, read slowly, or send nonsense. Prints how
requests ended, times to the first token, tokens per second, and how the server's memory grew. Needs Python alone.

    python3 scripts/serve_load.py http://127.0.0.1:8080 --requests 1000 --clients 64 --pid PID
"""

import argparse
import collections
import http.client
import json
import random
import threading
import time
import urllib.parse
import urllib.request


# How often of 100 a client does what.
KINDS = {"whole": 40, "stream": 35, "cancel": 10, "slow": 5, "nonsense": 10}


class Load:
    """What all clients share."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.place = urllib.parse.urlsplit(arguments.server)
        self.lock = threading.Lock()
        self.left = arguments.requests
        self.endings: collections.Counter = collections.Counter()
        self.first: list[float] = []
        self.tokens = 0
        self.memory: list[tuple[int, int]] = []
        self.wrong: list[str] = []
        self.headers = {"Content-Type": "application/json"}
        if arguments.key:
            self.headers["Authorization"] = f"Bearer {arguments.key}"
        request = urllib.request.Request(f"{arguments.server}/v1/models", headers=self.headers)
        self.models = [model["id"] for model in json.load(urllib.request.urlopen(request))["data"]]
        if arguments.models:
            self.models = arguments.models.split(",")
        self.never = {token: -100 for token in arguments.never.split(",") if token}

    def next(self) -> int | None:
        """The number of the next request."""
        with self.lock:
            if self.left == 0:
                return None
            self.left -= 1
            number = self.arguments.requests - self.left
            if self.arguments.pid and number % max(1, self.arguments.requests // 20) == 0:
                self.memory.append((number, resident(self.arguments.pid)))
            return number

    def end(self, how: str) -> None:
        with self.lock:
            self.endings[how] += 1


def resident(pid: int) -> int:
    """KiB of a process's memory."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


def client(load: Load, number: int) -> None:
    """Sends requests until none is left."""
    chance = random.Random(number)
    while load.next() is not None:
        try:
            ask(load, chance)
        except (OSError, http.client.HTTPException) as error:
            load.end(f"connection: {type(error).__name__}")


def ask(load: Load, chance: random.Random) -> None:
    plain = load.arguments.plain
    kind = "stream" if plain else chance.choices(list(KINDS), list(KINDS.values()))[0]
    connection = http.client.HTTPConnection(load.place.hostname, load.place.port, timeout=300)
    text = " ".join(chance.choice(["cat", "timer", "number", "hello", "where", "is", "the", "sky"]) for _ in range(chance.randint(1, 60)))
    body = {
        "model": chance.choice(load.models),
        "prompt": text,
        "max_tokens": load.arguments.tokens if plain else chance.randint(1, load.arguments.tokens),
        "temperature": chance.choice([0, 1]),
        **({"logit_bias": load.never} if plain else {}),
        "stream": kind in ("stream", "cancel", "slow"),
    }
    sent = json.dumps(body)
    if kind == "nonsense":
        sent = chance.choice(["{", "[]", sent[: len(sent) // 2], json.dumps(body | {"n": 10**9}), json.dumps(body | {"model": "x"}), "\0"])
    begun = time.monotonic()
    connection.request("POST", "/v1/completions", sent.encode(), load.headers)
    answer = connection.getresponse()
    if answer.status != 200:
        error = json.loads(answer.read())["error"]
        expected = kind == "nonsense" or answer.status == 429
        load.end(f"{kind}: {answer.status}")
        if not expected:
            load.wrong.append(f"{kind}: {answer.status} {error['message']}")
        if answer.status == 429:
            time.sleep(float(answer.getheader("Retry-After", "1")))
        return
    if kind == "nonsense":
        load.wrong.append(f"nonsense was answered: {sent[:80]}")
    if not body["stream"]:
        whole = json.loads(answer.read())
        with load.lock:
            load.tokens += whole["usage"]["completion_tokens"]
        load.end(f"{kind}: 200")
        return
    read(load, chance, kind, answer, begun)
    connection.close()


def read(load: Load, chance: random.Random, kind: str, answer: http.client.HTTPResponse, begun: float) -> None:
    """Reads a stream as its client does."""
    pieces, last = 0, b""
    cut = chance.randint(1, 20)
    for line in answer:
        if not line.startswith(b"data: "):
            continue
        if pieces == 0:
            with load.lock:
                load.first.append(time.monotonic() - begun)
        pieces, last = pieces + 1, line
        if kind == "cancel" and pieces == cut:
            load.end("cancel: gone")
            return
        if kind == "slow":
            time.sleep(0.02)
    with load.lock:
        load.tokens += pieces
    done = last.strip() == b"data: [DONE]"
    load.end(f"{kind}: {'200' if done else 'broken off'}")
    if not done:
        load.wrong.append(f"{kind}: the stream ends with {last[:200]!r}")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("server", help="address of the server")
    arguments.add_argument("--requests", type=int, default=1000)
    arguments.add_argument("--clients", type=int, default=64)
    arguments.add_argument("--tokens", type=int, default=64, help="tokens of the longest answer")
    arguments.add_argument("--key", help="key of the server")
    arguments.add_argument("--pid", type=int, help="process of the server, whose memory is read")
    arguments.add_argument("--plain", action="store_true", help="streams of that many tokens alone, to measure speed")
    arguments.add_argument("--never", default="", help="token ids that --plain rules out, such as that of the end")
    arguments.add_argument("--models", help="models that are asked, with commas [default: all]")
    load = Load(arguments.parse_args())
    begun = time.monotonic()
    clients = [threading.Thread(target=client, args=(load, number)) for number in range(load.arguments.clients)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    seconds = time.monotonic() - begun
    for how, count in sorted(load.endings.items()):
        print(f"{count:7} {how}")
    print(f"{load.arguments.requests} requests in {seconds:.1f} s, {load.tokens / seconds:.0f} tokens/s")
    if load.first:
        first = sorted(load.first)
        at = {share: first[min(len(first) - 1, int(len(first) * share))] for share in (0.5, 0.9, 0.99)}
        print("first token: " + ", ".join(f"p{share * 100:g} {seconds * 1000:.0f} ms" for share, seconds in at.items()))
    for number, kibibytes in load.memory:
        print(f"after {number:6} requests: {kibibytes / 1024:.1f} MiB")
    for wrong in load.wrong[:20]:
        print("wrong:", wrong)
    raise SystemExit(1 if load.wrong else 0)


if __name__ == "__main__":
    main()
