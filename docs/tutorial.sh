#!/usr/bin/env bash
# # Fine-tune a 7B with LoRA, from the memory table to shipping
#
# Ten steps, each with the idea, the command and what it printed. The first is about a model of 7 billion parameters and needs none of
# its files. The others run on SmolLM2-135M, which `scripts/fetch_model.sh` puts into `models/`, so that each takes a minute or less on
# two cores. (The times below are of one core that had other work, too.) For a 7B nothing changes but `--model`, the memory and the
# time: a step of 512 tokens takes 51 s and 4.4 GiB on two cores ([benchmarks](benchmarks.md#how-fast-is-a-qlora-step)).
# `bash docs/tutorial.sh` runs all of it.
#
# ## 1. Memory
# Why not train all weights? Adam keeps four numbers for each of them: the weight, its gradient and two moments. What that comes to is
# arithmetic over the shape of the model, and `plan` does it before anything is downloaded:
lorafit plan --model llama-2-7b --threads 2 --memory 24GB

# Read the first table from top to bottom. Full fine-tuning in f32 needs 111 GB. LoRA freezes the weights, so that they need neither
# gradients nor moments: 17 GB, nearly all of it weights. QLoRA stores those in 4 bits: 7.4 GB, of which activations are now the largest
# part that can be saved. Computing them again in the backward pass brings it to 4.7 GB. [Memory](memory.md) says how each number comes
# about and how far measured peaks are from it.
#
# ## 2. Low rank
# A change of a matrix W with `out` rows and `in` columns has `out x in` numbers. LoRA (Hu et al. 2021) bets that the change which a
# task needs has few directions, and writes it as a product of two thin matrices:
#
#     Y = X (W + alpha / r * B A)^T          W: out x in, frozen     B: out x r     A: r x in
#
# So r * (out + in) numbers are trained instead of out * in: for the 4096 x 4096 of the table above, 65,536 instead of 16,777,216 at rank
# 8. The sum W + B A is never formed while training: X goes through A and B beside W, which costs a product as thin as r.
#
# B begins with zeros, so the first step starts from what the model does; A begins with random numbers, since with both at zero neither
# would ever get a gradient.
#
# ## 3. LoRA from scratch
# There is no automatic differentiation in lorafit: every layer has its backward pass beside its forward pass. For a LoRA layer it is
# three lines. This is the whole of it, with the frozen matrix, AdamW and the merge, on a task that is made so that the right answer is
# known: the change that has to be learnt has rank 4.
sed -n '/^const/,/^#.cfg.test/p' crates/model/examples/lora_from_scratch.rs | head -n -2
cargo run --quiet -p lorafit-model --example lora_from_scratch

# From rank 4 on the loss goes to zero; below, what is left is the part of the change that does not fit into so few directions. The
# last column is the loss after the factors were added to the matrix: merging changes nothing but the last digits. (Real tasks have no
# such edge: their changes have a few strong directions and a long tail, as step 10 shows.)
#
# ## 4. Applying it to a transformer
# A decoder block has seven such matrices: queries, keys, values and output of the attention, and gate, up and down of the MLP. By default
# all of them get an adapter (`--target-modules all-linear`); norms, embedding and head stay as they are. Rows become tokens by the
# model's own chat template, and only the replies are trained on. `data` shows a row as it will be trained, with the trained part marked:
lorafit data demo/train.jsonl --model models/SmolLM2-135M-Instruct.Q4_1.gguf --rows 1

# ## 5. The training loop
# A step takes a batch of rows, computes the loss of the next token at every trained position, sends its gradient back through the blocks
# into A and B, and lets AdamW update them. [crates/train/src/trainer.rs](../crates/train/src/trainer.rs) is the loop, and
# [ARCHITECTURE.md](../ARCHITECTURE.md) says where each part of it is. Thirty steps of four rows:
lorafit train --model models/SmolLM2-135M-Instruct.Q4_1.gguf --data demo/train.jsonl --out runs/lora --preset off \
  --lr 1e-3 --max-steps 30 --batch-size 4 --base-name HuggingFaceTB/SmolLM2-135M-Instruct

# The plan came before the first step, the held-out loss before and after, and the last lines say what the run came to and what to do
# next. Interrupted at any time, `lorafit train --resume runs/lora` goes on with the same bits ([checkpoints](checkpoints.md)).
#
# ## 6. QLoRA
# The base of that run was a file of 4-bit weights already: gradients pass through whatever the base is stored as. A base in 16 bits
# is quantised while it is loaded, here to NF4, whose 16 levels lie as a normal distribution does, with the scales quantised, too
# (`--double-quant`; Dettmers et al. 2023). A and B stay in f32, and learn to make up for what rounding lost.
lorafit train --model models/SmolLM2-135M-Instruct.Q4_1.gguf --data demo/train.jsonl --out runs/qlora --preset off \
  --lr 1e-3 --max-steps 30 --batch-size 4 --quant nf4 --double-quant --quiet
lorafit runs runs

# ## 7. Saving and swapping
# What is saved are A and B, in the files of PEFT, which load in PEFT, vLLM and others as they are:
ls -l runs/lora | awk '{ print $5, $9 }' | grep adapter
lorafit inspect runs/lora --model models/SmolLM2-135M-Instruct.Q4_1.gguf | head -n 8

# The base without and with it, on a request it has not seen:
lorafit generate --model models/SmolLM2-135M-Instruct.Q4_1.gguf --chat --max-new-tokens 24 --prompt "Wake me up at 06:45"
lorafit generate --model models/SmolLM2-135M-Instruct.Q4_1.gguf --adapter runs/lora --chat --max-new-tokens 24 \
  --prompt "Wake me up at 06:45"

# Adapters are small, so many share one base: `lorafit chat` switches between them without loading the base again, and `lorafit serve`
# answers requests for different ones in one batch ([serving](serving.md)). To hand on one file, add it to the weights:
lorafit export --to gguf --model models/SmolLM2-135M-Instruct.Q4_1.gguf --adapter runs/lora --type q8_0 --out runs/shipped.gguf
lorafit generate --model runs/shipped.gguf --chat --max-new-tokens 24 --prompt "Wake me up at 06:45"

# [Handing an adapter on](shipping.md) has the other ways: an Ollama folder, vLLM, mlx-lm, a merged folder for transformers.
#
# ## 8. LoRA against full fine-tuning
# What does the bet on few directions cost? The same loop trains all weights with `--method full`; its learning rate is lower, since
# it moves every weight and not a product of two factors.
lorafit train --method full --model models/SmolLM2-135M-Instruct.Q4_1.gguf --data demo/train.jsonl --out runs/full --preset off \
  --lr 2e-4 --max-steps 30 --batch-size 4

# Both on 24 requests that neither has seen, with the share of answers that are exactly right:
lorafit compare --runs runs/lora runs/full --data demo/test.jsonl --limit 24 --metric exact_match --max-new-tokens 40

# After thirty steps full fine-tuning is ahead, for six times the memory. But the learning rates were not the best of each, and one run
# each proves little. Over 60 steps, with the best rate for each method (4.6e-3 for LoRA at rank 8) and three seeds, LoRA is level with
# full fine-tuning on this task, even at rank 1 ([what was measured](choosing.md#what-was-measured)). Biderman et al. 2024 ("LoRA Learns
# Less and Forgets Less") find full fine-tuning ahead where much has to be learnt, in long training on code and mathematics.
#
# ## 9. Hyper-parameters
# In the order in which they matter:
#
# - **Learning rate.** That of LoRA is about ten times that of full fine-tuning, and lower for wider models: 1.3e-3 for this one, 2.9e-4
#   for a 7B. `--lr auto` tests rates first.
# - **Passes over the data.** Few rows are seen several times; the held-out loss says when to stop, and `--patience` stops there.
# - **Which matrices.** All of them. Attention alone was behind in the measurement above.
# - **Rank.** It has to hold what the data teaches: 8 does up to 40 million trained tokens of a 7B (step 1 says so). `inspect` shows how
#   many directions are used:
lorafit inspect runs/lora --model models/SmolLM2-135M-Instruct.Q4_1.gguf | grep directions

# - **Alpha.** The adapter's output is scaled by alpha / rank. Twice the rank is usual; it works like a factor of the learning rate.
#
# What is not given is chosen from data and model, with the reason printed ([choosing settings](choosing.md)); `lorafit sweep` searches
# ([searching](sweep.md)), as in [a researcher's table](stories/table.md).
#
# ## 10. Pictures
# One page with curves, memory, spectra and what changed in which layer, and every figure as a file:
lorafit report runs/lora runs/qlora runs/full --out runs/report.html --figures runs/figures
ls runs/figures | wc -l
cp runs/figures/loss.svg docs/pictures/tutorial_loss.svg
cp runs/figures/lora-change.svg docs/pictures/tutorial_change.svg
cp runs/figures/lora-spectrum-v_proj.svg docs/pictures/tutorial_spectrum.svg

# The loss of the three runs:
#
# ![Loss of the three runs](pictures/tutorial_loss.svg)
#
# How much each matrix of each layer changed, against the size of what was there:
#
# ![Change by layer](pictures/tutorial_change.svg)
#
# And the singular values of the change of the value projections: a few strong directions and a tail, which is why a low rank is enough.
#
# ![Spectrum of the change](pictures/tutorial_spectrum.svg)
