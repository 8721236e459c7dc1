"""Runs a command and reports its time and peak memory, told apart: what it allocated, and pages of mapped files, which the
system takes back when memory is short.

    python3 scripts/peak_memory.py lorafit data large.jsonl --model M --json

Looks every 20 ms at /proc/PID/status (Linux). Needs the standard library only.
"""

import os
import subprocess
import sys
import time

started = time.monotonic()
process = subprocess.Popen(sys.argv[1:])
peak = dict.fromkeys(("VmRSS", "RssAnon", "RssFile"), 0)
while process.poll() is None:
    try:
        with open(f"/proc/{process.pid}/status") as status:
            for line in status:
                name, _, value = line.partition(":")
                if name in peak:
                    peak[name] = max(peak[name], int(value.split()[0]))
    except (FileNotFoundError, ProcessLookupError):
        break
    time.sleep(0.02)
code = process.wait()
seconds = time.monotonic() - started
times = os.times()
print(f"{seconds:.1f} s, of the processors {times.children_user + times.children_system:.1f} s", file=sys.stderr)
for name, what in (("VmRSS", "resident"), ("RssAnon", "allocated"), ("RssFile", "of mapped files")):
    print(f"peak {what}: {peak[name] * 1024 / 1e6:.0f} MB", file=sys.stderr)
sys.exit(code)
