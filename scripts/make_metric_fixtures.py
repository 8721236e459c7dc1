"""Makes fixtures/metrics/: what other programs make of the same answers.

texts.json        pairs of reply and answer: `exact` (scikit-learn's accuracy_score of the stripped texts), `exact_ignoring_case`
                  (of the same in small letters, as evaluate's exact_match has them), `f1` (torchmetrics' squad), `rouge_l`
                  (rouge_score's rougeL F-measure, without stemming; null where the reply has no token for it); and the means
bootstrap.json    values with scipy's 95 % percentile bootstrap interval of their mean, of 200,000 resamples; and values that are
                  0 or 1 with the interval that every number of resamples comes closer to, which the binomial distribution has
classes.json      labels and answers of a classifier, as numbers: `accuracy` and `f1` (scikit-learn's f1_score, macro)
choices_*.jsonl   multiple choice, chat rows and text rows
choices.json      the log-probability of every option, computed by transformers (and PEFT) from fixtures/models/chat_bpe and
                  chat_spm in f32, as lm-evaluation-harness does: one text of prompt and option, the tokens behind those of the
                  prompt; and acc and acc_norm of them by its formulas

torchmetrics' squad is of SQuAD 1.1: it gives 0 to two texts without a word, where SQuAD 2.0's script gives 1. Those pairs are
left out here.

Run: .venv/bin/python scripts/make_metric_fixtures.py        (deterministic)
"""
import json
import pathlib

import numpy as np
import scipy.stats
import torch
from peft import PeftModel
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer
from sklearn.metrics import accuracy_score, f1_score
from torchmetrics.functional.text import squad
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = pathlib.Path(__file__).resolve().parent.parent / "fixtures"
OUT = ROOT / "metrics"

PAIRS = [
    ("Paris", "Paris"),
    ("Paris", " Paris\n"),
    ("Paris", "paris"),
    ("Paris", "Paris."),
    ("Paris", "The capital of France is Paris."),
    ("Paris", "London"),
    ("Paris", ""),
    ("the cat sat on the mat", "a cat sat on a mat"),
    ("the cat sat on the mat", "The cat, it sat; on the MAT!"),
    ("the cat sat on the mat", "mat the on sat cat the"),
    ("the cat sat on the mat", "the the the the"),
    ("an apple a day keeps the doctor away", "An apple each day keeps doctors away."),
    ("police killed the gunman", "police kill the gunman"),
    ("police killed the gunman", "the gunman kill police"),
    ("don't stop", "dont stop"),
    ("well-known", "well known"),
    ("U.S.A.", "USA"),
    ("a.b.c", "abc"),
    ("42", "42.0"),
    ("1,234", "1234"),
    ("$1,234.50", "1234.5 dollars"),
    ("-5", "5"),
    ("-5 degrees", "minus 5 degrees"),
    ("25%", "25 %"),
    ("25%", "25 percent"),
    ("€30", "30 euros"),
    ("café au lait", "Café au lait"),
    ("café au lait", "cafe au lait"),
    ("Straße", "STRASSE"),
    ("İstanbul", "istanbul"),
    ("naïve résumé of a day", "a naive resume of the day"),
    ("Привет, мир", "привет мир"),
    ("東京 is the capital", "東京 is a capital"),
    ("東京タワー", "東京タワー"),
    ("good 👍 job", "good job"),
    ("“quoted” text", '"quoted" text'),
    ("one – two — three", "one two three"),
    ("tab\tand\u00a0no-break", "tab and no-break"),
    ("line one\nline two", "line one line two"),
    ("under_score x_y", "under score xy"),
    ("The", "cat"),
    ("cat", "the"),
    ("a", "b"),
    ("yes yes no", "yes no no"),
    ("x", "x x x x x x x x"),
    ("the quick brown fox jumps over the lazy dog", "the fast brown fox leaps over a lazy dog and runs"),
    ('{"action":"light","room":"office"}', '{"action": "light", "room": "office"}'),
    ('{"action":"light","room":"office"}', '{"action":"light","room":"attic"}'),
]

# Chat rows, and rows of prompt and completion, whose reply begins with a blank.
CHAT = [
    ("Which is a fruit?", ["a stone", "an apple", "a car"], 1),
    ("2 + 2?", ["3", "4", "5", "22"], 1),
    ("Say it in French: cheese", ["le fromage", "le chat noir qui dort", "été"], 0),
    ("Is water wet?", ["yes", "no"], 0),
    ("Pick the longest", ["a", "a longer one", "the longest of all of the options"], 2),
    ("Where is the light?", ["in the kitchen", "in the kitchen, on the left", "outside"], 2),
    ("東京?", ["はい", "いいえ"], 1),
    ("price", ["$1,234.50", "-5 %", "0"], 0),
]
TEXT = [
    ("The capital of France is", ["Paris", "London", "Rome"], 0),
    ("one two three", ["four", "five six", "seven eight nine ten"], 1),
    ("Water is", ["wet", "dry and hot"], 0),
    ("naïve", ["résumé", "plain"], 1),
]


def write(name, value):
    (OUT / name).write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def texts():
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    tokens = DefaultTokenizer(use_stemmer=False).tokenize
    rows = []
    for expected, answer in PAIRS:
        lower = (expected.strip().lower(), answer.strip().lower())
        f1 = squad({"prediction_text": answer, "id": "0"}, {"answers": {"text": [expected], "answer_start": [0]}, "id": "0"})["f1"]
        rouge = scorer.score(expected, answer)["rougeL"].fmeasure if tokens(expected) else None
        rows.append({
            "expected": expected, "answer": answer,
            "exact": accuracy_score([expected.strip()], [answer.strip()]),
            "exact_ignoring_case": accuracy_score([lower[0]], [lower[1]]),
            "f1": float(f1) / 100, "rouge_l": rouge,
        })
    judged = [row["rouge_l"] for row in rows if row["rouge_l"] is not None]
    means = {key: float(np.mean([row[key] for row in rows])) for key in ("exact", "exact_ignoring_case", "f1")}
    write("texts.json", {"rows": rows, "means": means | {"rouge_l": float(np.mean(judged))}})


def bootstrap():
    draws = np.random.default_rng(7)
    cases = []
    for name, values in (("scores", draws.beta(2, 1, 50)), ("few scores", draws.random(12)), ("f1-like", np.round(draws.random(200), 1))):
        found = scipy.stats.bootstrap((values,), np.mean, n_resamples=200_000, method="percentile", random_state=1, vectorized=True, batch=10_000)
        low, high = found.confidence_interval
        # Four standard errors of a percentile of 10,000 resamples: sqrt(0.025 * 0.975 / 10,000) over the normal density there.
        spread = float(np.std(values) / np.sqrt(len(values)))
        tolerance = 4 * spread * float(np.sqrt(0.025 * 0.975 / 10_000) / scipy.stats.norm.pdf(1.96))
        cases.append({"name": name, "values": values.tolist(), "low": low, "high": high, "tolerance": tolerance})
    for right, rows in ((4, 8), (14, 20), (26, 30), (58, 64), (2, 100), (94, 100)):
        sums = scipy.stats.binom(rows, right / rows)
        low, high = sums.ppf(0.025), sums.ppf(0.975)
        # No step of the distribution is near enough for the draws to come out on its other side: five standard errors.
        for quantile, place in ((0.025, low), (0.975, high)):
            assert min(abs(sums.cdf(place) - quantile), abs(sums.cdf(place - 1) - quantile)) > 5 * 0.00156, (right, rows)
        values = [1.0] * right + [0.0] * (rows - right)
        cases.append({"name": f"{right} of {rows}", "values": values, "low": low / rows, "high": high / rows, "tolerance": 1e-12})
    write("bootstrap.json", cases)


def classes():
    chance = np.random.default_rng(8)
    cases = [([0, 1, 2], [0, 1, 2]), ([0, 1], [1, 0]), ([0, 0, 0, 1], [0, 0, 0, 0]), ([2, 2, 2], [2, 2, 2]), ([0, 3], [3, 3]),
             ([0, 1, 1, 2], [0, 2, 1, 1])]
    cases += [(chance.integers(0, labels, rows).tolist(), chance.integers(0, labels, rows).tolist())
              for labels, rows in ((2, 50), (5, 40), (20, 60), (3, 500))]
    write("classes.json", [{"expected": expected, "answers": answers, "accuracy": accuracy_score(expected, answers),
                            "f1": f1_score(expected, answers, average="macro", zero_division=0)} for expected, answers in cases])


def choice_rows():
    chat = [{"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": options[right]}], "options": options}
            for asked, options, right in CHAT]
    text = [{"prompt": prompt, "completion": " " + options[right], "options": options} for prompt, options, right in TEXT]
    for name, rows in (("choices_chat.jsonl", chat), ("choices_text.jsonl", text)):
        (OUT / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def log_probability(model, tokenizer, prompt, option, special):
    before = tokenizer(prompt, add_special_tokens=special).input_ids
    ids = tokenizer(prompt + option, add_special_tokens=special).input_ids
    assert ids[:len(before)] == before and len(ids) > len(before), (prompt, option)
    with torch.no_grad():
        logs = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
    return sum(float(logs[place - 1, ids[place]]) for place in range(len(before), len(ids)))


def accuracies(all_scores, cases):
    gold = [right for _, _, right in cases]
    plain = [int(np.argmax(scores)) for scores in all_scores]
    normalised = [int(np.argmax([s / len(option) for s, option in zip(scores, options)])) for scores, (_, options, _) in zip(all_scores, cases)]
    return {"acc": accuracy_score(gold, plain), "acc_norm": accuracy_score(gold, normalised)}


def choices():
    choice_rows()
    found = []
    for name in ("chat_bpe", "chat_spm"):
        folder = ROOT / "models" / name
        tokenizer = AutoTokenizer.from_pretrained(folder)
        for adapter in (None, "adapter"):
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
            if adapter:
                model = PeftModel.from_pretrained(model, folder / adapter).eval()
            for kind, cases in (("chat", CHAT), ("text", TEXT)):
                scores = []
                for asked, options, _ in cases:
                    prompt, gap, special = asked, " ", True
                    if kind == "chat":
                        prompt = tokenizer.apply_chat_template([{"role": "user", "content": asked}], tokenize=False, add_generation_prompt=True)
                        gap, special = "", False
                    scores.append([log_probability(model, tokenizer, prompt, gap + option, special) for option in options])
                found.append({"model": name, "adapter": bool(adapter), "rows": f"choices_{kind}.jsonl", "log_probabilities": scores} | accuracies(scores, cases))
    write("choices.json", found)


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    texts()
    bootstrap()
    classes()
    choices()
