#!/bin/sh
# LoRA against full fine-tuning of SmolLM2-135M-Instruct on E2E rows: three runs from the same base over the same rows,
# then their evaluation loss side by side.
#
# Usage: scripts/lora_against_full.sh TRAIN.jsonl EVAL.jsonl [ROWS=2000 EVAL_ROWS=200]     LORAFIT=path of the binary
set -eu
train=$1 held_out=$2 rows=${3:-2000} eval_rows=${4:-200}
lorafit=${LORAFIT:-target/release/lorafit}
model=${MODEL:-models/SmolLM2-135M-Instruct.Q4_1.gguf}
out=${OUT:-runs/lora-against-full}
common="--preset off --model $model --data $train --limit $rows --epochs 1 --batch-size 8 --checkpoint-every 0 --overwrite"
"$lorafit" train $common --rank 8 --target-modules q_proj,k_proj,v_proj,o_proj --out "$out/lora-attention"
"$lorafit" train $common --rank 8 --out "$out/lora-all-linear"
"$lorafit" train $common --method full --lr "${FULL_LR:-2e-5}" --save-dtype f32 --out "$out/full"
"$lorafit" compare --runs "$out/lora-attention" "$out/lora-all-linear" "$out/full" --data "$held_out" --limit "$eval_rows"
