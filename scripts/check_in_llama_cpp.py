"""Holds files of `lorafit export` against lorafit in llama.cpp: log-probabilities of the tokens of rows, and greedy answers.

Usage: lorafit eval --model M [--adapter A] --data ROWS --limit 8 --scores SCORES > /dev/null
       lorafit eval --model M [--adapter A] --data ROWS --generate --json --predictions ANSWERS > /dev/null
       pip install xllamacpp
       scripts/check_in_llama_cpp.py MODEL.gguf [--lora LORA.gguf] [--scores SCORES] [--answers ANSWERS]

--scores   how far log-probabilities of next tokens lie apart: largest and mean; a token that is not among the --top likeliest
           is left out and counted
--answers  how many answers equal lorafit's, and how many what is expected
Prints one JSON object.
"""
import argparse
import json

import xllamacpp

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--lora")
parser.add_argument("--scores")
parser.add_argument("--answers")
parser.add_argument("--rows", type=int, default=1 << 30)
parser.add_argument("--top", type=int, default=2000)
parser.add_argument("--max-new-tokens", type=int, default=48)
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()

params = xllamacpp.CommonParams()
params.model.path = args.model
params.n_ctx = 1024
params.n_parallel = 1
params.cpuparams.n_threads = args.threads
params.warmup = False
# Keys and values in f32, as lorafit has them: llama.cpp rounds them to f16 otherwise, and log-probabilities differ by 0.01.
params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
if args.lora:
    adapter = xllamacpp.CommonAdapterLoraInfo()
    adapter.path, adapter.scale = args.lora, 1.0
    params.lora_adapters = [adapter]
server = xllamacpp.Server(params)


def lines(path):
    with open(path) as f:
        return [json.loads(line) for line in f][: args.rows]


def complete(prompt, **options):
    answer = server.handle_completions({"prompt": prompt, "temperature": 0.0, "stream": False, **options})
    return json.loads(answer) if isinstance(answer, (bytes, str)) else answer


result = {"model": args.model, "lora": args.lora}
if args.scores:
    differences, missed = [], 0
    for row in lines(args.scores):
        ids, nll = row["input_ids"], row["next_token_nll"]
        for i, loss in enumerate(nll):
            answer = complete(ids[: i + 1], max_tokens=1, logprobs=args.top, cache_prompt=True)
            top = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            found = [token["logprob"] for token in top if token["id"] == ids[i + 1]]
            if found:
                differences.append(abs(found[0] + loss))
            else:
                missed += 1
    result |= {"tokens": len(differences), "not_among_top": missed, "largest_difference": max(differences),
               "mean_difference": sum(differences) / len(differences)}
if args.answers:
    rows = lines(args.answers)
    same = exact = 0
    different = []
    for row in rows:
        answer = complete(row["prompt"], max_tokens=args.max_new_tokens)["choices"][0]["text"].strip()
        same += answer == row["answer"].strip()
        exact += answer == row["expected"].strip()
        if answer != row["answer"].strip():
            different.append({"prompt": row["prompt"], "lorafit": row["answer"], "llama.cpp": answer})
    result |= {"rows": len(rows), "same_as_lorafit": same, "exact": exact, "different": different}
print(json.dumps(result))
