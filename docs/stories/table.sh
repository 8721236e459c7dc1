#!/usr/bin/env bash
# # A researcher's table and figures
#
# A researcher asks which rank and which learning rate suit a task, and what the adapter changed in the model, and needs a table
# and figures for a paper. The model is the one that `scripts/fetch_model.sh` puts into `models/`. `bash docs/stories/table.sh`
# runs all this.
#
# Two ranks with two learning rates, each for 30 steps:
cat docs/stories/ranks.toml
lorafit sweep docs/stories/ranks.toml --out runs/ranks

# The same trials on rows that none of them has seen, with the base beside them:
lorafit compare --runs runs/ranks/trials/* --data demo/test.jsonl --html runs/compare.html

# What became of each trial? (The loss of the rows that it held out, after its last step; the newest comes first.)
lorafit runs runs/ranks/trials

# A page of the sweep and one of the two best trials, and every figure as SVG, PNG, PDF and CSV for the paper:
lorafit report runs/ranks --out runs/ranks.html --figures runs/figures
lorafit report runs/ranks/trials/002 runs/ranks/trials/003 --out runs/trials.html --figures runs/figures
ls runs/figures | head -n 4

# Was rank 2 too small, or rank 16 larger than needed?
lorafit inspect runs/ranks/trials/002 | grep directions
lorafit inspect runs/ranks/trials/003 | grep directions

# That is a sign and not a proof; losses decide. At the higher learning rate rank 16 does no better than rank 2 on the rows that
# were held out (0.2389 and 0.2247), nor on those of the test (0.1630 and 0.1565): the learning rate matters here, the rank does
# not. (A paper would ask this of several seeds, with `seeds = 3` under `[sweep]`.)
#
# The table for a notebook:
cat runs/ranks/trials.csv
