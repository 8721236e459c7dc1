# Written by `lorafit manual --format pyi` from the declarations of the flags.
from os import PathLike
from typing import Literal, Sequence, TypedDict

class TrainFlags(TypedDict, total=False):
    """Flags of `lorafit train`."""

    overwrite: bool | None
    """Replace the run that is already in --out, instead of refusing"""

    config: str | PathLike[str] | None
    """Read settings from a TOML or YAML file; a flag on the command line overrides the file"""

    resume_anyway: bool | None
    """Resume although something differs from the checkpoint; the differences are printed"""

    base_name: str | PathLike[str] | None
    """Name of the base in the adapter's files: a model on the hub (org/name) or a folder, by which PEFT finds it"""

    no_card: bool | None
    """Do not write a model card (README.md) beside the result"""

    name: str | PathLike[str] | None
    """Name of the run, kept in its config.toml and on its model card [default: the last part of --out]"""

    method: Literal["lora", "full"] | None
    """What is trained"""

    init: Literal["default", "model", "random", "gaussian", "orthogonal", "pissa"] | None
    """Initial values of what is trained"""

    train_modules: str | float | PathLike[str] | Sequence[str | float] | None
    """Weights that --method full trains: all, a comma list, or regex:PATTERN [default: all]"""

    save_dtype: Literal["f32", "bf16"] | None
    """How --method full stores the weights of its result [default: bf16 where the base is 16-bit, else f32]"""

    layers: str | float | PathLike[str] | Sequence[str | float] | None
    """Blocks that are trained, counted from 0, both ends included: 0-15, or 8- for 8 to the last [default: all]"""

    rank: int | None
    """Rank of the adapter: how much it can learn; 4 to 64"""

    alpha: float | None
    """Strength of the adapter: its output is scaled by alpha / rank; usually 1 to 2 times the rank"""

    dropout: float | None
    """Share of the adapter's input dropped at random while training; 0 to 0.1, more for few rows"""

    target_modules: str | float | PathLike[str] | Sequence[str | float] | None
    """Modules that get an adapter: all-linear, a comma list, or regex:PATTERN"""

    exclude_modules: str | float | PathLike[str] | Sequence[str | float] | None
    """Modules that get no adapter although --target-modules selects them: a comma list, or regex:PATTERN"""

    rank_pattern: str | float | PathLike[str] | Sequence[str | float] | None
    """Another rank for some modules, as PATTERN=RANK; repeat the flag for several"""

    alpha_pattern: str | float | PathLike[str] | Sequence[str | float] | None
    """Another alpha for some modules, as PATTERN=ALPHA, with patterns as in --rank-pattern; repeat the flag for several"""

    rslora: bool | None
    """Scale the adapter's output by alpha / sqrt(rank) instead of alpha / rank (rsLoRA, Kalajdzievski 2023)"""

    dora: bool | None
    """Train a magnitude for each output beside the factors (DoRA, weight-decomposed low-rank adaptation)"""

    save_modules: str | float | PathLike[str] | Sequence[str | float] | None
    """Weights that are trained whole beside the factors: a comma list of embed_tokens, lm_head and norms"""

    new_tokens: str | float | PathLike[str] | Sequence[str | float] | None
    """Texts that become tokens: a comma list, or a file with one a line; their rows of embedding and head are trained beside the factors"""

    adapter: str | PathLike[str] | None
    """Start from an existing adapter (a PEFT folder) instead of a fresh one; it brings its own rank and modules"""

    preset: Literal["off", "quick", "good", "best"] | None
    """Choose the rank, the learning rate, the number of passes and early stopping from the data and the model [default: good]"""

    lr: str | float | PathLike[str] | Sequence[str | float] | None
    """Peak learning rate; 1e-4 to 1e-3 suits LoRA, a tenth of that full fine-tuning; auto tests it before training [default: as --preset chooses; with --preset off 2e-4, with --method full 2e-5, with --init random 1e-3]"""

    optimizer: Literal["adamw", "adamw-8bit"] | None
    """How the optimizer keeps its moments"""

    scheduler: Literal["constant", "linear", "cosine", "wsd"] | None
    """How the learning rate changes after the warm-up"""

    warmup_ratio: float | None
    """Share of the steps that warm up: the learning rate rises from 0; 0 to 0.1 [default: 0.03; in runs of fewer than 10 steps 0]"""

    decay_ratio: float | None
    """Share of the steps in which --scheduler wsd lets the learning rate fall; 0.1 to 0.2 [default: 0.2]"""

    lora_plus_ratio: float | None
    """How many times the learning rate of A, which is --lr, an adapter's B gets (LoRA+, Hayou et al. 2024); 2 to 16 [default: 1]"""

    weight_decay: float | None
    """Weight decay of AdamW, for matrices only; 0 to 0.1"""

    label_smoothing: float | None
    """Share of each target that is spread evenly over the vocabulary (Szegedy et al. 2016); 0 to 0.2 [default: 0]"""

    neftune_alpha: float | None
    """Add uniform noise to embeddings while training, up to this over sqrt(tokens of the row x hidden size) (NEFTune, Jain et al. 2023); 5 to 15 for instructions"""

    max_grad_norm: float | None
    """Clip the gradient to this norm; 0 turns clipping off"""

    batch_size: int | None
    """Rows per batch; 1 to 32"""

    gradient_accumulation: int | None
    """Batches per optimizer step; a step sees batch-size x gradient-accumulation rows"""

    epochs: float | None
    """Passes over the data; 1 to 5; 0.5 is half a pass [default: as --preset chooses; with --preset off 1]"""

    max_steps: int | None
    """Number of optimizer steps, instead of --epochs; the data is repeated as often as needed"""

    seed: int | None
    """Random seed of the initial adapter or weights, the order of rows, dropout and noise"""

    objective: Literal["sft", "dpo", "ipo", "hinge", "robust", "apo-zero", "apo-down", "simpo", "orpo", "cpo", "kto", "bco", "reward", "classify"] | None
    """The objective of the training: learn replies as they are (sft), learn which replies are better, or learn to score texts (reward, classify)"""

    beta: float | None
    """How strongly a difference of log-probabilities counts: a large beta keeps the model near its reference [default: 0.1; simpo 2]"""

    gamma: float | None
    """By how much the chosen reply should be better, with --objective simpo [default: 1]"""

    sft_weight: float | None
    """Weight of the plain loss of the chosen replies, which is added; not with kto [default: orpo and cpo 1, others 0]"""

    center_rewards: float | None
    """Weight of the squared sum of the rewards of a pair, with --objective reward: a small one, 0.01, keeps rewards near 0 [default: 0]"""

    length_normalise: bool | None
    """Divide log-probabilities by the tokens of the reply, so that long replies count no more than short ones; with dpo, robust and hinge (ipo, simpo and orpo always do)"""

    desirable_weight: float | None
    """Factor of the loss of good replies with kto; where they are few, the number of bad ones over theirs [default: 1]"""

    undesirable_weight: float | None
    """Factor of the loss of bad replies with kto [default: 1]"""

    reference: str | float | PathLike[str] | Sequence[str | float] | None
    """What the model is compared with: base (no adapter), start (what the run begins with), or another adapter's folder [default: start]"""

    reference_free: bool | None
    """Leave the reference out, as if it said nothing; with dpo, ipo, robust and hinge"""

    max_seq_len: int | None
    """Maximum number of tokens in a row; --overlong decides what happens to longer rows"""

    overlong: Literal["drop", "truncate-right", "error"] | None
    """What to do with rows longer than --max-seq-len; their number is printed"""

    train_on: Literal["replies", "last", "completion", "all"] | None
    """Which tokens are trained: the replies (the model learns to answer), the last reply only, all that follows the first prompt, or all (it learns the prompts too)"""

    limit: int | None
    """Read only the first N rows of each DATA [default: all]"""

    split: str | PathLike[str] | None
    """Read only the files of this split of a folder or data set: train, validation, test, or another name"""

    columns: str | PathLike[str] | Sequence[str | PathLike[str]] | None
    """Which fields columns with other names are: topic=instruction,essay=output; NAME=ignore skips a column"""

    role: str | PathLike[str] | Sequence[str | PathLike[str]] | None
    """Which roles speakers with other names have: human=user,bot=assistant"""

    skip_bad_rows: bool | None
    """Skip rows that cannot be read instead of stopping; they are counted, and the first are shown"""

    label_column: str | PathLike[str] | None
    """The column that holds the label of a text, with --objective classify; its name in the file [default: label]"""

    no_shuffle: bool | None
    """Keep the rows in file order"""

    eval_split: str | PathLike[str] | None
    """Like --split, for --eval-data"""

    validation: str | float | PathLike[str] | Sequence[str | float] | None
    """Hold out part of --data instead: a share (5%), a number of rows, `auto` or `none` [default: auto, without --eval-data]"""

    eval_every: int | None
    """Number of optimizer steps between two evaluations of the held-out rows [default: as --preset chooses; with --preset off before the first and after the last]"""

    best_by: Literal["loss", "accuracy"] | None
    """Which evaluation of held-out rows is the best, whose adapter or model is kept in best/; accuracy with objectives of pairs and with classify [default: loss]"""

    patience: int | None
    """End the run after so many evaluations in a row that did not lower the held-out loss (--best-by accuracy: did not raise the accuracy); 3 to 10 [default: as --preset chooses; with --preset off the run goes to its end]"""

    min_delta: float | None
    """How far the held-out loss must fall (the accuracy rise) for --patience to count an evaluation as better [default: 0]"""

    restarts: int | None
    """Where there is more to learn when the last step is done, begin --scheduler anew for twice as many steps, at most N times (Loshchilov and Hutter 2017); 1 to 3 [default: as --preset chooses; with --preset off 0]"""

    average: str | float | PathLike[str] | Sequence[str | float] | None
    """Keep an average of what is trained, and write it to average/ beside the last: last:STEPS or ema:DECAY"""

    micro_batch_tokens: str | float | PathLike[str] | Sequence[str | float] | None
    """Tokens computed at once; the main setting for memory, 256 to 8192"""

    micro_batches_at_once: str | float | PathLike[str] | Sequence[str | float] | None
    """Micro-batches computed at the same time, which share --micro-batch-tokens [default: auto]"""

    no_prefix_sharing: bool | None
    """Compute every row by itself, even where rows of a batch begin with the same tokens"""

    frozen_cache: Literal["auto", "f32", "bf16", "off"] | None
    """Keep the outputs of the frozen blocks below --layers in --cache-dir, so that each row passes them once [default: auto]"""

    checkpoint_every: str | float | PathLike[str] | Sequence[str | float] | None
    """How often to save a checkpoint: a number of steps (50) or a time (90s, 10m, 2h); 0: only at the end and on a signal"""

    keep_checkpoints: int | None
    """Number of checkpoints to keep; each holds the adapter and the optimizer's moments"""

    on_nan: str | float | PathLike[str] | Sequence[str | float] | None
    """What to do with a step whose loss or gradient is not a number: stop, or skip it (five in a row end the run)"""

    skip_loss_spikes: bool | None
    """Skip steps whose loss is six standard deviations above those of the last 128 steps"""

    tensorboard: bool | None
    """Write event files for TensorBoard to tensorboard/ in the run folder"""

    recompute: str | float | PathLike[str] | Sequence[str | float] | None
    """Which activations to recompute in the backward pass instead of keeping them: none, full, a number of blocks (12-blocks), or auto [default: auto]"""

    activation_dtype: Literal["f32", "bf16"] | None
    """How kept activations are stored"""

    memory: str | float | PathLike[str] | Sequence[str | float] | None
    """Memory the run may take, such as 6GiB or 800MB [default: 90 % of what is free now]"""

    quant: Literal["nf4", "fp4", "int8"] | None
    """Quantise the base's projections as it is loaded, as bitsandbytes does"""

    double_quant: bool | None
    """Quantise the scales of nf4 or fp4 too: 4.13 instead of 4.5 bits a weight"""

    quant_block: int | None
    """Weights that share a scale in nf4 or fp4: a power of two from 32 to 4096"""

    quant_head: bool | None
    """Quantise the embedding and the head too"""

    compute_dtype: Literal["f32", "bf16", "int8"] | None
    """Number type in which weights and activations are multiplied"""

    cache_dir: str | PathLike[str] | None
    """Folder that keeps tokenised data for the next run [default: lorafit in XDG_CACHE_HOME or ~/.cache]"""

    no_cache: bool | None
    """Tokenise every time, and keep the tokens in memory"""

    template: str | PathLike[str] | None
    """Chat template: chatml, llama-3, mistral, alpaca, or a Jinja file [default: the model's own]"""

    threads: int | None
    """Number of threads [default: all cores]"""

    device: str | float | PathLike[str] | Sequence[str | float] | None
    """Device to compute on: auto, cpu, or cuda:N for an NVIDIA GPU; auto is the CPU"""

    quiet: bool | None
    """Print results and errors only: no progress, no notes"""

class PlanFlags(TypedDict, total=False):
    """Flags of `lorafit plan`."""

    batch_size: int | None
    """Rows per batch"""

    max_seq_len: int | None
    """Tokens of a row"""

    micro_batch_tokens: str | float | PathLike[str] | Sequence[str | float] | None
    """Tokens computed at once, as in train; auto takes what --batch-size rows of --max-seq-len tokens have, as far as it fits"""

    micro_batches_at_once: str | float | PathLike[str] | Sequence[str | float] | None
    """Micro-batches computed at the same time, which share --micro-batch-tokens, as in train [default: auto]"""

    rank: int | None
    """Width of the adapter; train chooses 8 unless there is much data, and the plan says for how much it does"""

    target_modules: str | float | PathLike[str] | Sequence[str | float] | None
    """Modules that get an adapter: all-linear, a comma list, or regex:PATTERN"""

    dora: bool | None
    """Train a magnitude for each output, too (DoRA)"""

    init: Literal["default", "model", "random", "gaussian", "orthogonal", "pissa"] | None
    """What the adapter begins with, as in train; pissa has twice the --rank"""

    average: str | float | PathLike[str] | Sequence[str | float] | None
    """An average of what is trained, as in train"""

    exclude_modules: str | float | PathLike[str] | Sequence[str | float] | None
    """Modules that get no adapter although --target-modules selects them: a comma list, or regex:PATTERN"""

    rank_pattern: str | float | PathLike[str] | Sequence[str | float] | None
    """Another rank for some modules, as PATTERN=RANK; repeat the flag for several"""

    save_modules: str | float | PathLike[str] | Sequence[str | float] | None
    """Weights that are trained whole beside the factors, as in train"""

    new_tokens: int | None
    """Number of tokens that are added, whose rows of embedding and head are trained, too (--new-tokens of train); if the embedding has free rows, a little less is taken"""

    objective: Literal["sft", "dpo", "ipo", "hinge", "robust", "apo-zero", "apo-down", "simpo", "orpo", "cpo", "kto", "bco", "reward", "classify"] | None
    """What the run trains for, as in train: a row of pairs is two texts of --max-seq-len tokens, and reward and classify have a head of their own"""

    labels: int | None
    """Number of labels, with --objective classify [default: those of the model's head, else 2]"""

    reference: str | float | PathLike[str] | Sequence[str | float] | None
    """The reference of --objective dpo and others, as in train: an adapter's folder takes memory of its own, base and start take none"""

    optimizer: Literal["adamw", "adamw-8bit"] | None
    """How the optimizer keeps its moments"""

    threads: int | None
    """Number of threads [default: all cores]"""

    device: str | float | PathLike[str] | Sequence[str | float] | None
    """Device to plan for: cpu, or cuda for an NVIDIA GPU, which this machine need not have"""

    compute_dtype: Literal["f32", "bf16", "int8"] | None
    """Number type in which weights and activations are multiplied"""

    quant: Literal["nf4", "fp4", "int8"] | None
    """Quantise the base's projections as it is loaded, as bitsandbytes does"""

    double_quant: bool | None
    """Quantise the scales of nf4 or fp4 too: 4.13 instead of 4.5 bits a weight"""

    quant_block: int | None
    """Weights that share a scale in nf4 or fp4: a power of two from 32 to 4096"""

    quant_head: bool | None
    """Quantise the embedding and the head too"""

    recompute: str | float | PathLike[str] | Sequence[str | float] | None
    """Which activations to recompute in the backward pass instead of keeping them: none, full, a number of blocks (12-blocks), or auto [default: auto]"""

    activation_dtype: Literal["f32", "bf16"] | None
    """How kept activations are stored"""

    memory: str | float | PathLike[str] | Sequence[str | float] | None
    """Memory the run may take, such as 6GiB or 800MB [default: 90 % of what is free now]"""

class DataFlags(TypedDict, total=False):
    """Flags of `lorafit data`."""

    objective: Literal["sft", "dpo", "ipo", "hinge", "robust", "apo-zero", "apo-down", "simpo", "orpo", "cpo", "kto", "bco", "reward", "classify"] | None
    """Show rows as train reads them for this objective: with classify their labels, with reward whole texts [default: rows as they are; labels only where they are true or false]"""

    label_column: str | PathLike[str] | None
    """The column that holds the label of a text, with --objective classify; its name in the file [default: label]"""

    batch_size: int | None
    """Rows per batch, to compute the cost of padding and the gain of prefix sharing"""

    max_seq_len: int | None
    """Maximum number of tokens in a row; --overlong decides what happens to longer rows"""

    overlong: Literal["drop", "truncate-right", "error"] | None
    """What to do with rows longer than --max-seq-len; their number is printed"""

    train_on: Literal["replies", "last", "completion", "all"] | None
    """Which tokens are trained: the replies (the model learns to answer), the last reply only, all that follows the first prompt, or all (it learns the prompts too)"""

    limit: int | None
    """Read only the first N rows of each DATA [default: all]"""

    split: str | PathLike[str] | None
    """Read only the files of this split of a folder or data set: train, validation, test, or another name"""

    columns: str | PathLike[str] | Sequence[str | PathLike[str]] | None
    """Which fields columns with other names are: topic=instruction,essay=output; NAME=ignore skips a column"""

    role: str | PathLike[str] | Sequence[str | PathLike[str]] | None
    """Which roles speakers with other names have: human=user,bot=assistant"""

    skip_bad_rows: bool | None
    """Skip rows that cannot be read instead of stopping; they are counted, and the first are shown"""

    cache_dir: str | PathLike[str] | None
    """Folder that keeps tokenised data for the next run [default: lorafit in XDG_CACHE_HOME or ~/.cache]"""

    no_cache: bool | None
    """Tokenise every time, and keep the tokens in memory"""

    new_tokens: str | float | PathLike[str] | Sequence[str | float] | None
    """Texts that become tokens, as in train"""

    template: str | PathLike[str] | None
    """Chat template: chatml, llama-3, mistral, alpaca, or a Jinja file [default: the model's own]"""

    threads: int | None
    """Number of threads [default: all cores]"""

    device: str | float | PathLike[str] | Sequence[str | float] | None
    """Device to compute on: auto, cpu, or cuda:N for an NVIDIA GPU; auto is the CPU"""

    quiet: bool | None
    """Print results and errors only: no progress, no notes"""

class SweepFlags(TypedDict, total=False):
    """Flags of `lorafit sweep`."""

    trials_at_once: int | None
    """Trials to run at the same time; they share the base, and are refused if they do not fit in memory together"""

    shard: str | float | PathLike[str] | Sequence[str | float] | None
    """Run only this part of the trials, such as 1/4: the first of four jobs; all may use the same folder"""

    retry_failed: bool | None
    """Run failed trials again"""

    quiet: bool | None
    """Print results and errors only"""

class EvalFlags(TypedDict, total=False):
    """Flags of `lorafit eval`."""

    generate: bool | None
    """Also answer each row's last prompt, and compare the answers with the replies, by exact_match unless --metric says otherwise"""

    metric: Literal["exact_match", "contains", "regex", "token_f1", "rouge_l", "number", "json_valid", "json_equal", "json_schema", "acc", "acc_norm", "judge"] | Sequence[Literal["exact_match", "contains", "regex", "token_f1", "rouge_l", "number", "json_valid", "json_equal", "json_schema", "acc", "acc_norm", "judge"]] | None
    """What answers are judged by; repeat the flag for several. Answers are generated where a metric needs them"""

    max_new_tokens: int | None
    """Maximum number of tokens in an answer; of a longer answer this much is judged"""

    predictions: str | PathLike[str] | None
    """Write the answer to each row and all its scores, one JSON object a row; of judged rows the log-probabilities of replies"""

    ignore_case: bool | None
    """For exact_match and contains: small and capital letters are equal"""

    ignore_whitespace: bool | None
    """For exact_match and contains: any run of white space is equal to one blank"""

    regex: str | PathLike[str] | None
    """The pattern that the metric regex looks for in answers; anchor it with ^ and $ to match whole answers"""

    schema: str | PathLike[str] | None
    """The JSON schema that the metric json_schema holds answers to"""

    choices: str | PathLike[str] | None
    """The column of the rows that lists the options of a multiple choice, for acc and acc_norm; the reply is one of them"""

    judge: str | PathLike[str] | None
    """The command, run by the shell, that gives the metric judge"""

    judge_timeout: int | None
    """The time that the judge may take for all rows, in seconds"""

    max_seq_len: int | None
    """Maximum number of tokens in a row; --overlong decides what happens to longer rows"""

    overlong: Literal["drop", "truncate-right", "error"] | None
    """What to do with rows longer than --max-seq-len; their number is printed"""

    train_on: Literal["replies", "last", "completion", "all"] | None
    """Which tokens are trained: the replies (the model learns to answer), the last reply only, all that follows the first prompt, or all (it learns the prompts too)"""

    limit: int | None
    """Read only the first N rows of each DATA [default: all]"""

    split: str | PathLike[str] | None
    """Read only the files of this split of a folder or data set: train, validation, test, or another name"""

    columns: str | PathLike[str] | Sequence[str | PathLike[str]] | None
    """Which fields columns with other names are: topic=instruction,essay=output; NAME=ignore skips a column"""

    role: str | PathLike[str] | Sequence[str | PathLike[str]] | None
    """Which roles speakers with other names have: human=user,bot=assistant"""

    skip_bad_rows: bool | None
    """Skip rows that cannot be read instead of stopping; they are counted, and the first are shown"""

    cache_dir: str | PathLike[str] | None
    """Folder that keeps tokenised data for the next run [default: lorafit in XDG_CACHE_HOME or ~/.cache]"""

    no_cache: bool | None
    """Tokenise every time, and keep the tokens in memory"""

    micro_batch_tokens: int | None
    """Tokens computed at once; the main setting for memory"""

    memory: str | float | PathLike[str] | Sequence[str | float] | None
    """Memory the evaluation may take, such as 6GiB or 800MB [default: 90 % of what is free now]"""

    objective: Literal["dpo", "ipo", "hinge", "robust", "apo-zero", "apo-down", "simpo", "orpo", "cpo", "kto", "bco", "reward", "classify"] | None
    """Evaluate judged rows by the loss of this objective of train: kto takes rows with `label`, the others rows with `chosen` and `rejected` [default: replies as they are; of a model that scores texts what it was trained for]"""

    beta: float | None
    """As --beta of train: how strongly a difference of log-probabilities counts [default: 0.1; simpo 2]"""

    gamma: float | None
    """As --gamma of train, with --objective simpo [default: 1]"""

    sft_weight: float | None
    """As --sft-weight of train: weight of the plain loss of the chosen replies [default: orpo and cpo 1, others 0]"""

    center_rewards: float | None
    """As --center-rewards of train, with --objective reward [default: 0]"""

    length_normalise: bool | None
    """As --length-normalise of train: divide log-probabilities by the tokens of the reply"""

    reference: str | float | PathLike[str] | Sequence[str | float] | None
    """What the model is compared with: base (no adapter), or an adapter's folder [default: base]"""

    reference_free: bool | None
    """Leave the reference out, as if it said nothing; with dpo, ipo, robust and hinge"""

    label_column: str | PathLike[str] | None
    """The column that holds the label of a text, with --objective classify; its name in the file [default: label]"""

    scores: str | PathLike[str] | None
    """Write one JSON object a row with input_ids, next_token_nll and last_logits_top8, to hold against another program"""

    quant: Literal["nf4", "fp4", "int8"] | None
    """Quantise the base's projections as it is loaded, as bitsandbytes does"""

    double_quant: bool | None
    """Quantise the scales of nf4 or fp4 too: 4.13 instead of 4.5 bits a weight"""

    quant_block: int | None
    """Weights that share a scale in nf4 or fp4: a power of two from 32 to 4096"""

    quant_head: bool | None
    """Quantise the embedding and the head too"""

    compute_dtype: Literal["f32", "bf16", "int8"] | None
    """Number type in which weights and activations are multiplied"""

    adapter_dtype: Literal["auto", "f32", "bf16"] | None
    """Number type in which the factors of adapters are held in memory"""

    template: str | PathLike[str] | None
    """Chat template: chatml, llama-3, mistral, alpaca, or a Jinja file [default: the model's own]"""

    threads: int | None
    """Number of threads [default: all cores]"""

    device: str | float | PathLike[str] | Sequence[str | float] | None
    """Device to compute on: auto, cpu, or cuda:N for an NVIDIA GPU; auto is the CPU"""

    quiet: bool | None
    """Print results and errors only: no progress, no notes"""

class CompareFlags(TypedDict, total=False):
    """Flags of `lorafit compare`."""

    model: str | PathLike[str] | None
    """The base model of the runs, in place of the one that each run names"""

    generate: bool | None
    """Also answer each row's last prompt, and compare the answers with the replies, by exact_match unless --metric says otherwise"""

    metric: Literal["exact_match", "contains", "regex", "token_f1", "rouge_l", "number", "json_valid", "json_equal", "json_schema", "acc", "acc_norm", "judge"] | Sequence[Literal["exact_match", "contains", "regex", "token_f1", "rouge_l", "number", "json_valid", "json_equal", "json_schema", "acc", "acc_norm", "judge"]] | None
    """What answers are judged by; repeat the flag for several. Answers are generated where a metric needs them"""

    max_new_tokens: int | None
    """Maximum number of tokens in an answer; of a longer answer this much is judged"""

    predictions: str | PathLike[str] | None
    """Write the answer to each row and all its scores, one JSON object a row; of judged rows the log-probabilities of replies"""

    ignore_case: bool | None
    """For exact_match and contains: small and capital letters are equal"""

    ignore_whitespace: bool | None
    """For exact_match and contains: any run of white space is equal to one blank"""

    regex: str | PathLike[str] | None
    """The pattern that the metric regex looks for in answers; anchor it with ^ and $ to match whole answers"""

    schema: str | PathLike[str] | None
    """The JSON schema that the metric json_schema holds answers to"""

    choices: str | PathLike[str] | None
    """The column of the rows that lists the options of a multiple choice, for acc and acc_norm; the reply is one of them"""

    judge: str | PathLike[str] | None
    """The command, run by the shell, that gives the metric judge"""

    judge_timeout: int | None
    """The time that the judge may take for all rows, in seconds"""

    max_seq_len: int | None
    """Maximum number of tokens in a row; --overlong decides what happens to longer rows"""

    overlong: Literal["drop", "truncate-right", "error"] | None
    """What to do with rows longer than --max-seq-len; their number is printed"""

    train_on: Literal["replies", "last", "completion", "all"] | None
    """Which tokens are trained: the replies (the model learns to answer), the last reply only, all that follows the first prompt, or all (it learns the prompts too)"""

    limit: int | None
    """Read only the first N rows of each DATA [default: all]"""

    split: str | PathLike[str] | None
    """Read only the files of this split of a folder or data set: train, validation, test, or another name"""

    columns: str | PathLike[str] | Sequence[str | PathLike[str]] | None
    """Which fields columns with other names are: topic=instruction,essay=output; NAME=ignore skips a column"""

    role: str | PathLike[str] | Sequence[str | PathLike[str]] | None
    """Which roles speakers with other names have: human=user,bot=assistant"""

    skip_bad_rows: bool | None
    """Skip rows that cannot be read instead of stopping; they are counted, and the first are shown"""

    cache_dir: str | PathLike[str] | None
    """Folder that keeps tokenised data for the next run [default: lorafit in XDG_CACHE_HOME or ~/.cache]"""

    no_cache: bool | None
    """Tokenise every time, and keep the tokens in memory"""

    micro_batch_tokens: int | None
    """Tokens computed at once; the main setting for memory"""

    memory: str | float | PathLike[str] | Sequence[str | float] | None
    """Memory the evaluation may take, such as 6GiB or 800MB [default: 90 % of what is free now]"""

    threads: int | None
    """Number of threads [default: all cores]"""

    device: str | float | PathLike[str] | Sequence[str | float] | None
    """Device to compute on: auto, cpu, or cuda:N for an NVIDIA GPU; auto is the CPU"""

    quiet: bool | None
    """Print results and errors only: no progress, no notes"""

class InspectFlags(TypedDict, total=False):
    """Flags of `lorafit inspect`."""

    model: str | PathLike[str] | None
    """The base, for ||W||_F: a folder, a .gguf file, or a hub id [default: the one the run or the adapter names, if it is on this machine]"""

    against: str | PathLike[str] | None
    """Another adapter of the same base: similarity and principal angles of the subspaces of both"""

    threads: int | None
    """Number of threads [default: all cores]"""

    device: str | float | PathLike[str] | Sequence[str | float] | None
    """Device to compute on: auto, cpu, or cuda:N for an NVIDIA GPU; auto is the CPU"""

    quiet: bool | None
    """Print results and errors only: no progress, no notes"""

class ReportFlags(TypedDict, total=False):
    """Flags of `lorafit report`."""

    figures: str | PathLike[str] | None
    """Write each figure to this folder too, as SVG, PNG and PDF, and its numbers as CSV"""

    layer: str | PathLike[str] | None
    """The layer at which the directions of two runs are compared one by one, such as model.layers.3.self_attn.q_proj [default: the one that changed most]"""

    prompts: str | PathLike[str] | None
    """Prompts that the base and each adapter answer, which takes its time: a text file with one a line, or a .jsonl file of objects with a `prompt`"""

    max_new_tokens: int | None
    """Maximum number of tokens in an answer"""

    model: str | PathLike[str] | None
    """The base [default: the one the first run names, if it is on this machine]"""

    quant: Literal["nf4", "fp4", "int8"] | None
    """Quantise the base's projections as it is loaded, as bitsandbytes does"""

    double_quant: bool | None
    """Quantise the scales of nf4 or fp4 too: 4.13 instead of 4.5 bits a weight"""

    quant_block: int | None
    """Weights that share a scale in nf4 or fp4: a power of two from 32 to 4096"""

    quant_head: bool | None
    """Quantise the embedding and the head too"""

    template: str | PathLike[str] | None
    """Chat template: chatml, llama-3, mistral, alpaca, or a Jinja file [default: the model's own]"""

    threads: int | None
    """Number of threads [default: all cores]"""

    device: str | float | PathLike[str] | Sequence[str | float] | None
    """Device to compute on: auto, cpu, or cuda:N for an NVIDIA GPU; auto is the CPU"""

    quiet: bool | None
    """Print results and errors only: no progress, no notes"""

class MergeFlags(TypedDict, total=False):
    """Flags of `lorafit merge`."""

    overwrite: bool | None
    """Replace the model folder in --out, once the new one is complete"""

    dtype: Literal["as-base", "f32", "bf16", "f16"] | None
    """How the merged weights are stored"""

    shard_size: str | float | PathLike[str] | Sequence[str | float] | None
    """The largest file of weights, such as 4GiB or 800MB; more of them get an index"""

    template: str | PathLike[str] | None
    """Chat template: chatml, llama-3, mistral, alpaca, or a Jinja file [default: the model's own]"""

    merge_into: Literal["stored"] | None
    """For a base in 4 or 8 bits: add to the values that it stores, and write 16 bits"""

    base: str | PathLike[str] | None
    """For a base in 4 or 8 bits: add to the weights of this model, which --model was quantised from"""

    method: Literal["cat", "linear", "ties", "dare-linear", "dare-ties"] | None
    """How several adapters become one [default: cat]"""

    density: float | None
    """The share of each factor's values that ties and dare keep, above 0 and at most 1 [default: 0.5]"""

    majority_sign: Literal["total", "frequency"] | None
    """How ties and dare-ties choose the sign of a value [default: total]"""

    seed: int | None
    """Random seed of the values that dare-linear and dare-ties drop [default: 0]"""

    check: str | PathLike[str] | Sequence[str | PathLike[str]] | None
    """Rows to compare the merged model with --model and the adapters on: logits and loss"""

    max_seq_len: int | None
    """Maximum number of tokens in a row; --overlong decides what happens to longer rows"""

    overlong: Literal["drop", "truncate-right", "error"] | None
    """What to do with rows longer than --max-seq-len; their number is printed"""

    train_on: Literal["replies", "last", "completion", "all"] | None
    """Which tokens are trained: the replies (the model learns to answer), the last reply only, all that follows the first prompt, or all (it learns the prompts too)"""

    limit: int | None
    """Read only the first N rows of each DATA [default: all]"""

    split: str | PathLike[str] | None
    """Read only the files of this split of a folder or data set: train, validation, test, or another name"""

    columns: str | PathLike[str] | Sequence[str | PathLike[str]] | None
    """Which fields columns with other names are: topic=instruction,essay=output; NAME=ignore skips a column"""

    role: str | PathLike[str] | Sequence[str | PathLike[str]] | None
    """Which roles speakers with other names have: human=user,bot=assistant"""

    skip_bad_rows: bool | None
    """Skip rows that cannot be read instead of stopping; they are counted, and the first are shown"""

    threads: int | None
    """Number of threads [default: all cores]"""

    device: str | float | PathLike[str] | Sequence[str | float] | None
    """Device to compute on: auto, cpu, or cuda:N for an NVIDIA GPU; auto is the CPU"""

    quiet: bool | None
    """Print results and errors only: no progress, no notes"""

class ExportFlags(TypedDict, total=False):
    """Flags of `lorafit export`."""

    to: Literal["gguf", "gguf-lora", "ollama", "peft", "mlx", "transformers", "vllm", "tgi"] | None
    """What to write"""

    model: str | PathLike[str] | None
    """The base model: a .gguf file, a Hugging Face folder, a hub id (org/name or org/name@revision), or what Ollama has (ollama://model:tag)"""

    adapter: str | PathLike[str] | Sequence[str | PathLike[str]] | None
    """Adapter: a run folder of train, a PEFT folder, a LoRA in a .gguf file, or a folder of mlx-lm; optionally with a weight, A:0.5; repeat the flag to add up several adapters"""

    check: bool | None
    """Write nothing: say whether the program that --to names can load --adapter as it is and, if not, which command makes it fit; the exit code is then 1"""

    base_name: str | PathLike[str] | None
    """Name of the base that --to peft writes: a model on the hub (org/name) or a folder [default: --model, or the hub model that the metadata of a .gguf file names]"""

    type: str | float | PathLike[str] | Sequence[str | float] | None
    """How --to gguf and ollama store matrices: f32, f16, bf16, q8_0, q6_k, q5_k_m, q5_1, q5_0, q4_k_m, q4_1 or q4_0, each with the types that llama.cpp gives single tensors [default: each as the base has it, what the adapter changes in 8 bits or more]"""

    overwrite: bool | None
    """Replace the file --out, once the new one is complete"""

    threads: int | None
    """Number of threads [default: all cores]"""

    device: str | float | PathLike[str] | Sequence[str | float] | None
    """Device to compute on: auto, cpu, or cuda:N for an NVIDIA GPU; auto is the CPU"""

    quiet: bool | None
    """Print results and errors only: no progress, no notes"""

class ModelFlags(TypedDict, total=False):
    """Flags of `lorafit chat`."""

    quant: Literal["nf4", "fp4", "int8"] | None
    """Quantise the base's projections as it is loaded, as bitsandbytes does"""

    double_quant: bool | None
    """Quantise the scales of nf4 or fp4 too: 4.13 instead of 4.5 bits a weight"""

    quant_block: int | None
    """Weights that share a scale in nf4 or fp4: a power of two from 32 to 4096"""

    quant_head: bool | None
    """Quantise the embedding and the head too"""

    adapter_dtype: Literal["auto", "f32", "bf16"] | None
    """Number type in which the factors of adapters are held in memory"""

    template: str | PathLike[str] | None
    """Chat template: chatml, llama-3, mistral, alpaca, or a Jinja file [default: the model's own]"""

    threads: int | None
    """Number of threads [default: all cores]"""

    device: str | float | PathLike[str] | Sequence[str | float] | None
    """Device to compute on: auto, cpu, or cuda:N for an NVIDIA GPU; auto is the CPU"""

    quiet: bool | None
    """Print results and errors only: no progress, no notes"""

class SamplingFlags(TypedDict, total=False):
    """Flags of `lorafit generate`."""

    max_new_tokens: int | None
    """Longest answer"""

    temperature: float | None
    """0 always takes the likeliest token; 0.7 varies the answers; above 1 they become erratic"""

    top_p: float | None
    """Choose only among the likeliest tokens that together reach this probability; 1 is all"""

    top_k: int | None
    """Choose only among this many likeliest tokens; 0 is all"""

    seed: int | None
    """Random seed: the same seed gives the same answer"""
