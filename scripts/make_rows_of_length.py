"""Chat rows of exactly so many tokens, to hold scripts/peft_lora_cpu.py against `lorafit bench --seq TOKENS`.

Usage: .venv/bin/python scripts/make_rows_of_length.py MODEL.gguf TOKENS ROWS > rows.jsonl
"""
import json
import os
import sys

from transformers import AutoTokenizer

model, tokens, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
tokenizer = AutoTokenizer.from_pretrained(os.path.dirname(model), gguf_file=os.path.basename(model))


def messages(number, words):
    return [{"role": "user", "content": f"Row {number}."}, {"role": "assistant", "content": " ".join(["word"] * words)}]


def length(row):
    ids = tokenizer.apply_chat_template(row, tokenize=True)
    return len(ids if isinstance(ids, list) else ids["input_ids"])


for number in range(rows):
    # Every further word is a token.
    row = messages(number, 1 + tokens - length(messages(number, 1)))
    assert length(row) == tokens, f"row {number} has {length(row)} tokens"
    print(json.dumps({"messages": row}))
