"""Makes fixtures/tokenizers/: awkward strings and their token ids, by the tokenizers that define them.

  smollm2.json     SmolLM2-135M-Instruct.Q4_1.gguf (needs the real file: argument 1) by transformers' GGUF reader, with the
                   digits split one by one as the published tokenizer does and that reader forgets; `transformers_gguf`
                   holds what it says where that matters
  chat_bpe.json    fixtures/models/chat_bpe and fixtures/gguf/chat_bpe-f32.gguf
  chat_spm.json    fixtures/models/chat_spm and fixtures/gguf/chat_spm-f32.gguf; `sentencepiece` holds SentencePiece's own
                   ids where it is not the same (it knows no special tokens in text)
  pre-KIND.gguf    only a vocabulary (no tensors): 700 tokens whose merges cross every boundary, so that only the splitting
                   of KIND (gpt-2, default, llama-bpe, qwen2, smollm) decides; the token "zebra" has no merge to it,
                   so ignore_merges (llama-bpe only) decides too
  pre-KIND.json    its ids
Each JSON: {"tokenizer", "add_special_tokens": false, "cases": [{"text", "ids", "decoded"}]}; `ids` come without BOS; special
tokens in the text are recognised; `decoded` keeps special tokens.

llama-bpe, qwen2: the splitting of the published tokenizer.json files (qwen2 with its NFC normaliser, which GGUF files
do not carry but llama.cpp skips: cases with `nfc` true change under it). default: llama.cpp's four patterns in turn.

Run: .venv/bin/python scripts/make_tokenizer_fixtures.py [SmolLM2.gguf]      (deterministic)
"""
import json
import os
import pathlib
import sys
import unicodedata

import gguf
import tiny_tokenizers
from gguf import TokenType
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "fixtures"
OUT = FIXTURES / "tokenizers"

STRINGS = [
    "", "zebra, zebra zebra", " ", "  ", "   \t  ", "\n", "\n\n\n", "\r\n\r\n", " \n \n", "a", " a", "a ", "  a  b   c    ", "\ta\t\tb", "line one\n  line two\n\n\n    line three\n",
    "Hello, world!", "hello HELLO Hello hElLo", "I'm you're he'll we've they'd it's don't 'tis o'clock", "I'M YOU'RE HE'LL WE'VE DON'T", "'s's''t",
    "0 1 12 123 1234 12345 1234567890", "3.14159, -2.7e10, 0x1F, 1,000,000.00", "in 2024 there were 365 days", "½ ² ③ Ⅳ ٣٤ 四十二",
    "def f(x):\n    return {k: v for k, v in x.items() if k != 'a'}\n\t# done", "<div class=\"a b\">x &amp; y</div>", "a+b=c; x**2 != y^3 || z && ~w | $5 `code`",
    "{\"room\": \"kitchen\", \"on\": false, \"n\": [1, 2.5, null]}", "https://example.com/a/b?c=d&e=%20f#g", "user@example.com C:\\path\\to\\file.txt",
    "é è ñ ü ß Ø", "e\u0301 n\u0303 a\u030a\u0323", "\ufb01 \u2126 \u212b", "Привет, мир! Ёлка", "γειά σου κόσμε", "你好，世界。今天天气怎么样？", "こんにちは世界 カタカナ ﾊﾝｶｸ",
    "안녕하세요 세계", "مرحبا بالعالم", "नमस्ते दुनिया", "สวัสดีชาวโลก", "😀 👍🏽 👨‍👩‍👧‍👦 🇩🇪 ❤️", "a\u00a0b\u2003c\u200bd\ufeffe\u3000f", "\u0000\u0001\u007f", "…—–“quoted” ‘single’ «guillemets»",
    "!!!???...---***###", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "the there ▁the ▁ Ġthe Ċ", "\U0010ffff\ue000\ufffd",
    "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n", "text<|endoftext|>more <|im_end|> and <|im_star|>", "<s>[INST] hi [/INST] there</s> <s>", "<unk> <0x41> <pad>",
]
GPT2_NO_TAIL = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
TIKTOKEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def split(*patterns):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(p), behavior="isolated") for p in patterns]
                                   + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


PRE = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    "default": split(r"[\p{P}\$\+<=>\^~\|]+", GPT2_NO_TAIL, r"\p{N}+", "[0-9][0-9][0-9]"),
    "llama-bpe": split(TIKTOKEN % r"\p{N}{1,3}"),
    "qwen2": split(TIKTOKEN % r"\p{N}"),
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                       pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]),
}


def crossing_vocabulary():
    """A BPE trained without any splitting: merges run across words, digits, punctuation and line ends."""
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    special = [AddedToken(s, special=True, normalized=False) for s in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")]
    lines = [line for line in STRINGS if "<|" not in line and "zebra" not in line] * 2 + tiny_tokenizers.CORPUS
    t.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=699, special_tokens=special, show_progress=False, max_token_length=12,
                                                     initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    m = json.loads(t.to_str())["model"]
    vocab, merges = m["vocab"], [tuple(x) for x in m["merges"]]
    # One token that no merge makes.
    assert "zebra" not in vocab
    vocab["zebra"] = len(vocab)
    return vocab, merges


def cases(encode, decode, extra=None):
    out = []
    for text in STRINGS:
        ids = encode(text)
        case = {"text": text, "ids": ids, "decoded": decode(ids)}
        if unicodedata.normalize("NFC", text) != text:
            case["nfc"] = True
        if extra:
            case |= extra(text, ids)
        out.append(case)
    return out


def save(name, tokenizer, cases):
    lines = ",\n  ".join(json.dumps(c, ensure_ascii=True) for c in cases)
    (OUT / f"{name}.json").write_text(f'{{"tokenizer": {json.dumps(tokenizer)}, "add_special_tokens": false, "cases": [\n  {lines}\n]}}\n')
    print(f"{name}: {len(cases)} strings, {sum(len(c['ids']) for c in cases)} tokens")


def plain(t):
    return (lambda s: t.encode(s, add_special_tokens=False).ids), (lambda ids: t.decode(ids, skip_special_tokens=False))


def write_vocabulary(kind, vocab, merges):
    w = gguf.GGUFWriter(OUT / f"pre-{kind}.gguf", "llama")
    w.add_type(gguf.GGUFType.MODEL)
    w.add_name(f"pre-{kind}")
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre(kind)
    tokens = sorted(vocab, key=vocab.get)
    w.add_token_list(tokens)
    w.add_token_types([TokenType.CONTROL if i < 3 else TokenType.NORMAL for i in range(len(tokens))])
    w.add_token_merges([" ".join(m) for m in merges])
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)
    w.add_add_bos_token(False)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()
    os.chmod(OUT / f"pre-{kind}.gguf", 0o644)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    save("chat_bpe", "chat_bpe", cases(*plain(Tokenizer.from_file(str(FIXTURES / "models/chat_bpe/tokenizer.json")))))
    sp = tiny_tokenizers.spm()
    differs = lambda text, ids: {} if sp.encode(text) == ids else {"sentencepiece": sp.encode(text)}
    save("chat_spm", "chat_spm", cases(*plain(Tokenizer.from_file(str(FIXTURES / "models/chat_spm/tokenizer.json"))), differs))

    vocab, merges = crossing_vocabulary()
    for kind, pre in PRE.items():
        t = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=kind == "llama-bpe"))
        t.pre_tokenizer, t.decoder = pre, decoders.ByteLevel()
        if kind == "qwen2":
            t.normalizer = normalizers.NFC()
        t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
        write_vocabulary(kind, vocab, merges)
        save(f"pre-{kind}", f"pre-{kind}.gguf", cases(*plain(t)))

    if len(sys.argv) > 1:
        from transformers import AutoTokenizer
        path = pathlib.Path(sys.argv[1]).resolve()
        theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        t = theirs.backend_tokenizer.__class__.from_str(theirs.backend_tokenizer.to_str())
        t.pre_tokenizer = PRE["smollm"]
        forgets = lambda text, ids: ({} if theirs.encode(text, add_special_tokens=False) == ids
                                     else {"transformers_gguf": theirs.encode(text, add_special_tokens=False)})
        save("smollm2", path.name, cases(*plain(t), forgets))


main()
