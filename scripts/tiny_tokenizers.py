"""The two tiny tokenizers of the fixtures: a byte-level BPE as SmolLM2's and a SentencePiece BPE as Llama 2's.

Both have 320 tokens, know every byte, and are trained on the few lines below, so anyone can remake them.
Used by make_tiny_fixtures.py (Hugging Face folders), make_gguf_fixtures.py and make_tokenizer_fixtures.py.
"""
import io
import json

import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

VOCAB = 320
CORPUS = """the cat sat on the mat and the dog sat on the log
there is a small house near the river where the children play in the evening
what is the name of the restaurant that serves Italian food in the city centre
The Eagle is a family friendly coffee shop near the riverside with a low price range
turn the lights off in the kitchen and set an alarm for seven in the morning
I don't think that they're going to be there, but we'll see what they've done
in 2024 there were 365 days and 12 months, 3.14 is not 22/7
def main(): return [x for x in range(10) if x % 2 == 0]
hello world, hello there, how are you today? I am fine, thank you!
user asks and the assistant answers the question in one short sentence""".splitlines()

CHATML = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
          "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
LLAMA2 = ("{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
          "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
          "{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}")


def bpe():
    """SmolLM2's kind: digits one by one, GPT-2's splitting, no BOS; ids 0..2 are the special tokens."""
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    t.decoder = decoders.ByteLevel()
    special = [AddedToken(s, special=True, normalized=False) for s in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")]
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=special, show_progress=False,
                                                      initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    assert t.get_vocab_size() == VOCAB
    return t


def spm():
    """Llama 2's kind: SentencePiece BPE with byte fallback; 0 <unk>, 1 <s>, 2 </s>, 3..258 bytes, then pieces."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=out, model_type="bpe", vocab_size=VOCAB, byte_fallback=True,
        split_digits=True, add_dummy_prefix=True, remove_extra_whitespaces=False, normalization_rule_name="identity",
        allow_whitespace_only_pieces=True, character_coverage=1.0, num_threads=1, minloglevel=2)
    return sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())


def spm_as_hf(sp):
    """The same in Hugging Face's tokenizer.json, as its converter writes Llama 2: prepend, replace, merge by score."""
    pieces = [sp.id_to_piece(i) for i in range(VOCAB)]
    index = {p: i for i, p in enumerate(pieces)}
    merges = []
    for i, p in enumerate(pieces):
        if i < 3 or sp.is_byte(i):
            continue
        local = [(p[:c], p[c:], i) for c in range(1, len(p)) if p[:c] in index and p[c:] in index]
        merges.extend(sorted(local, key=lambda m: (index[m[0]], index[m[1]])))
    merges.sort(key=lambda m: -sp.get_score(m[2]))
    t = Tokenizer(models.BPE(vocab=index, merges=[m[:2] for m in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    t.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 1)])
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in ("<unk>", "<s>", "</s>")])
    return t


def write_folder(folder, tokenizer, bos, eos, unk, template, add_bos, template_file):
    """tokenizer.json, tokenizer_config.json, generation_config.json and the template (in a file or in the config)."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "add_bos_token": add_bos, "add_eos_token": False, "bos_token": bos, "eos_token": eos, "unk_token": unk, "pad_token": eos,
        "clean_up_tokenization_spaces": False, "model_max_length": 512, "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": {str(tokenizer.token_to_id(s)): {"content": s, "lstrip": False, "normalized": False, "rstrip": False,
                                                                 "single_word": False, "special": True} for s in (bos, eos, unk)},
    }
    if template_file:
        (folder / "chat_template.jinja").write_text(template)
    else:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    (folder / "generation_config.json").write_text(json.dumps(
        {"bos_token_id": tokenizer.token_to_id(bos), "eos_token_id": tokenizer.token_to_id(eos)}, indent=1) + "\n")
