"""Writes a large JSONL file of chat rows, to see that data larger than memory is read in bounded memory.

    python3 scripts/make_large_jsonl.py OUT.jsonl --gb 5

Sentences are drawn from the E2E rows of the fixtures, so that words are as frequent as in real text; a row has a question
of 2 to 12 of them and a reply of 2 to 40, and every twentieth row is an earlier one once more. The same arguments give
the same file. Needs the standard library only.
"""

import argparse
import json
import random
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("out", type=Path)
parser.add_argument("--gb", type=float, default=5.0, help="size in 10^9 bytes")
parser.add_argument("--seed", type=int, default=0)
arguments = parser.parse_args()

fixture = Path(__file__).resolve().parent.parent / "fixtures/data/e2e_train_64.jsonl"
sentences = [
    json.dumps(sentence)[1:-1]
    for line in fixture.read_text().splitlines()
    for message in json.loads(line)["messages"]
    for sentence in message["content"].replace(" | ", ". ").split(". ")
]
draw = random.Random(arguments.seed)
left = int(arguments.gb * 1e9)
rows, recent = 0, []
with arguments.out.open("w") as out:
    while left > 0:
        if recent and rows % 20 == 19:
            line = draw.choice(recent)
        else:
            question = ". ".join(draw.choices(sentences, k=draw.randint(2, 12)))
            reply = ". ".join(draw.choices(sentences, k=draw.randint(2, 40)))
            line = (
                f'{{"messages": [{{"role": "user", "content": "Row {rows}: {question}?"}}, '
                f'{{"role": "assistant", "content": "{reply}."}}]}}\n'
            )
            recent.append(line)
            del recent[:-1000]
        out.write(line)
        left -= len(line)
        rows += 1
print(f"{rows} rows, {arguments.out.stat().st_size} bytes")
