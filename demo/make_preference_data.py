#!/usr/bin/env python3
"""Writes demo/preferences/prompts.jsonl and test.jsonl: questions without answers, which ask for one short sentence.

    python3 demo/make_preference_data.py            write both files
    python3 demo/make_preference_data.py --check    exit 1 unless the files are exactly what this script writes

There is nothing to copy: what a good answer is, one sentence of 5 to 12 words, is said by the pattern in
demo/preferences/short.regex alone. What keeps the test honest: no topic of the prompts is in it.
"""
import json
import random
import sys
from pathlib import Path

SEED = 7
PROMPTS = 40
TESTS = 64

TOPICS = ["gravity", "photosynthesis", "a volcano", "bread", "a rainbow", "the moon", "a compass", "democracy", "jazz", "a vaccine",
          "the internet", "an earthquake", "chess", "a desert", "a battery", "cheese", "a black hole", "origami", "a thermometer",
          "inflation", "a coral reef", "yoga", "the heart", "a glacier", "a telescope", "chocolate", "a poem", "electricity",
          "a tornado", "soap", "a bicycle", "evolution", "a bank", "rust", "a lighthouse", "honey", "an atom", "a library",
          "the equator", "a satellite", "tea", "a submarine", "migration", "an opera", "a magnet", "snow", "a passport", "the brain",
          "a windmill", "paper", "an island", "a violin", "recycling", "a calendar", "salt", "a museum", "sleep", "a camera",
          "a river", "glass", "a novel", "steel", "an eclipse", "a garden", "tax", "a bridge", "yeast", "a robot"]
WORDINGS = ["What is {}?", "Explain {} to a child.", "Why does {} matter?", "Tell me something about {}."]
ORDER = "Answer in one short sentence. "


def rows(rng, topics, count):
    asked = [wording.format(topic) for topic in topics for wording in WORDINGS]
    rng.shuffle(asked)
    assert len(asked) >= count, f"{len(asked)} questions, {count} are wanted"
    return [{"messages": [{"role": "user", "content": ORDER + question}]} for question in asked[:count]]


def main():
    rng = random.Random(SEED)
    topics = list(TOPICS)
    rng.shuffle(topics)
    half = len(topics) // 2
    parts = {"prompts.jsonl": rows(rng, topics[:half], PROMPTS), "test.jsonl": rows(rng, topics[half:], TESTS)}
    folder = Path(__file__).parent / "preferences"
    for name, part in parts.items():
        path, text = folder / name, "".join(json.dumps(row) + "\n" for row in part)
        if "--check" in sys.argv[1:]:
            if not path.exists() or path.read_text() != text:
                sys.exit(f"error: {path} is not what this script writes\nhint: python3 demo/make_preference_data.py")
        else:
            path.write_text(text)
            print(f"{path}: {len(part)} rows")


if __name__ == "__main__":
    main()
