#!/usr/bin/env python3
"""Holds DPO, or a reward model, of lorafit against TRL on SmolLM2-135M: losses, margins and gradient norms of eight steps, and pairs
a second.

    scripts/check_preferences_in_trl.py --lorafit target/release/lorafit [--objective reward] [--steps 8] [--pairs 64]

The rows are made of the E2E rows of docs/data: prompts about four times as long as the answers, as plain text. Both begin with
the same fresh adapter (rank 8, all linear layers), in f32, with two threads, batches of four pairs and the same learning rate.
Needs trl (scripts/requirements.txt) and the model (scripts/fetch_model.sh).
"""
import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LR = 2e-4
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def write_rows(path, pairs):
    rows = [json.loads(line)["messages"] for line in (ROOT / "docs/data/lora_against_full_e2e.jsonl").read_text().splitlines()]
    with path.open("w") as file:
        for i in range(pairs):
            example, mine, other = rows[3 * i % 280], rows[(3 * i + 1) % 280], rows[(3 * i + 2) % 280]
            prompt = (f"Data: {example[0]['content']}\nText: {example[1]['content']}\n\n"
                      f"Data: {mine[0]['content']}\nText:")
            file.write(json.dumps({"prompt": prompt, "chosen": " " + mine[1]["content"],
                                   "rejected": " " + other[1]["content"]}) + "\n")


def in_trl(args, work):
    """Eight steps, then the time of all pairs; a process of its own, so that its peak memory is its own."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

    is_reward = args.objective == "reward"
    tokenizer = AutoTokenizer.from_pretrained(work / "model")

    def base():
        if not is_reward:
            return AutoModelForCausalLM.from_pretrained(work / "model", dtype=torch.float32)
        model = AutoModelForSequenceClassification.from_pretrained(work / "model", num_labels=1, dtype=torch.float32)
        model.config.pad_token_id = tokenizer.pad_token_id or tokenizer.eos_token_id
        return model

    torch.set_num_threads(args.threads)
    start = work / f"start_{args.objective}"
    if not start.exists():
        torch.manual_seed(3)
        lora = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=LINEAR,
                          task_type="SEQ_CLS" if is_reward else "CAUSAL_LM")
        get_peft_model(base(), lora).save_pretrained(start)
    model = PeftModel.from_pretrained(base(), start, is_trainable=True)
    rows = Dataset.from_list([json.loads(line) for line in (work / "rows.jsonl").read_text().splitlines()])
    steps, exact, times = [], [], []

    class Noted(TrainerCallback):
        def on_log(self, a, state, control, logs=None, **kwargs):
            if logs and "loss" in logs:
                steps.append({k: v for k, v in logs.items() if isinstance(v, (int, float))})

        def on_step_end(self, a, state, control, **kwargs):
            times.append(time.time())

        def on_train_begin(self, a, state, control, **kwargs):
            times.append(time.time())

    of_objective, of_trainer = (RewardConfig, RewardTrainer) if is_reward else (DPOConfig, DPOTrainer)
    config = of_objective(output_dir=str(work / "trl"), per_device_train_batch_size=4, max_steps=args.pairs // 4, learning_rate=LR,
                       lr_scheduler_type="constant", weight_decay=0.0, warmup_steps=0, max_grad_norm=1.0, logging_steps=1,
                       bf16=False, use_cpu=True, gradient_checkpointing=False, report_to=[], save_strategy="no",
                       train_sampling_strategy="sequential", disable_tqdm=True, max_length=1024)
    trainer = of_trainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer, callbacks=[Noted()])
    compute = trainer.compute_loss

    def compute_loss(*a, **k):
        loss = compute(*a, **k)
        exact.append((loss[0] if isinstance(loss, tuple) else loss).item())
        return loss

    trainer.compute_loss = compute_loss
    trainer.train()
    for step, loss in zip(steps, exact):
        step["loss"] = loss
    # The first step warms up.
    seconds = times[-1] - times[1]
    told = {"steps": steps, "pairs_per_s": 4 * (len(times) - 2) / seconds,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    (work / "trl.json").write_text(json.dumps(told))


def in_lorafit(args, work):
    shutil.rmtree(work / "run", ignore_errors=True)
    command = [args.lorafit, "train", "--model", work / "model", "--adapter", work / f"start_{args.objective}", "--data", work / "rows.jsonl",
               "--objective", args.objective, "--out", work / "run", "--lr", LR, "--scheduler", "constant", "--warmup-ratio", 0,
               "--max-steps", args.pairs // 4, "--batch-size", 4, "--no-shuffle", "--validation", "none", "--preset", "off",
               "--checkpoint-every", 0, "--threads", args.threads, "--no-card", "--max-seq-len", 1024]
    started = time.time()
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    wall = time.time() - started
    steps = [json.loads(line) for line in (work / "run/metrics.jsonl").read_text().splitlines()]
    seconds = sum(step["seconds"] for step in steps[1:])
    return {"steps": steps, "pairs_per_s": 4 * (len(steps) - 1) / seconds, "wall": wall,
            "peak_mib": max(step["peak_rss_bytes"] for step in steps) / 2**20,
            "computed": sum(s["computed_tokens"] for s in steps) / sum(s["tokens"] for s in steps)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lorafit", default=ROOT / "target/release/lorafit")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/preferences_in_trl")
    parser.add_argument("--objective", choices=("dpo", "reward"), default="dpo")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8, help="steps that are compared")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--trl", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    work = args.work
    if args.trl:
        return in_trl(args, work)
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "model").exists():
        subprocess.run([sys.executable, ROOT / "scripts/gguf_to_safetensors.py", ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf",
                        work / "model"], check=True)
    write_rows(work / "rows.jsonl", args.pairs)
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    subprocess.run([sys.executable, __file__, "--trl", "--work", work, "--pairs", str(args.pairs), "--threads",
                    str(args.threads), "--objective", args.objective], check=True, env=environment, stdout=subprocess.DEVNULL)
    trl = json.loads((work / "trl.json").read_text())
    ours = in_lorafit(args, work)
    margin = "margin" if args.objective == "reward" else "rewards/margins"
    worst = {"loss": 0.0, margin: 0.0, "grad_norm": 0.0}
    for mine, theirs in zip(ours["steps"][:args.steps], trl["steps"]):
        worst["loss"] = max(worst["loss"], abs(mine["loss"] - theirs["loss"]))
        worst[margin] = max(worst[margin], abs(mine[margin] - theirs[margin]))
        worst["grad_norm"] = max(worst["grad_norm"], abs(mine["grad_norm"] / theirs["grad_norm"] - 1))
    print(f"worst of {args.steps} steps: loss {worst['loss']:.1e}, margin {worst[margin]:.1e}, "
          f"gradient norm {worst['grad_norm']:.1e} (relative)")
    print(f"pairs/s: lorafit {ours['pairs_per_s']:.3f}, TRL {trl['pairs_per_s']:.3f}: "
          f"{ours['pairs_per_s'] / trl['pairs_per_s']:.2f} times "
          f"({'the reference is asked before the steps here, in them there' if args.objective == 'dpo' else 'no reference'})")
    asked = ours["wall"] * trl["pairs_per_s"] / args.pairs
    print(f"whole runs, with the reference and loading: lorafit {ours['wall']:.0f} s, TRL's steps alone {args.pairs / trl['pairs_per_s']:.0f} s: "
          f"{1 / asked:.2f} times")
    print(f"peak memory: lorafit {ours['peak_mib']:.0f} MiB, TRL {trl['peak_mib']:.0f} MiB: {ours['peak_mib'] / trl['peak_mib']:.3f}")
    print(f"tokens computed: {100 * ours['computed']:.0f} % of those of chosen and rejected samples")


main()
