#!/usr/bin/env bash
# # An assistant that answers in JSON, from 80 examples to a service
#
# An engineer who has not trained a model before wants plain requests turned into JSON commands, and a service that does it.
# The model is the one that `scripts/fetch_model.sh` puts into `models/`. `bash docs/stories/assistant.sh` runs all this.
#
# There are 80 examples:
head -n 80 demo/train.jsonl > runs/examples.jsonl
head -n 2 runs/examples.jsonl

# Each is seen six times, at a learning rate that suits a model as small as this one:
lorafit train --model models/SmolLM2-135M-Instruct.Q4_1.gguf --data runs/examples.jsonl --out runs/assistant \
  --preset off --epochs 6 --lr 1e-3

# How good is it on 64 requests that it has not seen, and how good was the base?
lorafit eval --model models/SmolLM2-135M-Instruct.Q4_1.gguf --data demo/test.jsonl \
  --metric json_valid --metric exact_match --max-new-tokens 40
lorafit eval --model models/SmolLM2-135M-Instruct.Q4_1.gguf --adapter runs/assistant --data demo/test.jsonl \
  --metric json_valid --metric exact_match --max-new-tokens 40

# One file with base and adapter for the server of llama.cpp, and a folder for Ollama:
lorafit export --to gguf --model models/SmolLM2-135M-Instruct.Q4_1.gguf --adapter runs/assistant --type q8_0 \
  --out runs/assistant.gguf
lorafit export --to ollama --model models/SmolLM2-135M-Instruct.Q4_1.gguf --adapter runs/assistant --out runs/ollama

# A request to the exported file:
lorafit generate --model runs/assistant.gguf --chat --prompt "Wake me up at 06:45" --max-new-tokens 40

# The service is one of these. (llama.cpp, asked the first 8 requests of the test by `scripts/check_in_llama_cpp.py`, answered all
# with the same words as lorafit, and as expected.)
#     llama-server -m runs/assistant.gguf --jinja
#     ollama create assistant -f runs/ollama/Modelfile && ollama run assistant
