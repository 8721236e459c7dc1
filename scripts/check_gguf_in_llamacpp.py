"""Compares llama.cpp's logits for the files of fixtures/gguf with those of transformers. For a check by hand.

Needs the packages of requirements.txt and xllamacpp, whose library is called directly (its C interface is llama.h). Files
without a tokenizer are copied with an invented one, without which llama.cpp does not know the size of the vocabulary.

With xllamacpp 2026.10.11549 every file agrees within 3e-3 of the largest logit (its arithmetic is not all f32: token 0,
which attends to itself alone, is off as much as the others), but for two:
  phi3-f32            llama.cpp does not apply the window that the file tells, so it agrees up to token 6 (the window is 7)
  phi3_longrope-f32   llama.cpp chooses the factors by the length of the context, at least 256, transformers by the sample's;
                      the sample of 17 tokens agrees when the copy says an original length above the context's (done here)

Run: .venv/bin/python scripts/check_gguf_in_llamacpp.py [NAME...]     (NAME as in fixtures/gguf/NAME.gguf)
"""
import ctypes
import pathlib
import sys
import tempfile

import gguf
import numpy as np
import xllamacpp
from gguf import GGUFValueType
from safetensors.numpy import load_file

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "fixtures"
LIBRARY = ctypes.CDLL(str(next(pathlib.Path(xllamacpp.__file__).parent.glob("xllamacpp*.so"))))
F32 = 0
# Places of fields in llama_context_params, and the value by which each is recognised.
CONTEXT, BATCH, MICRO_BATCH, FLASH_ATTENTION, TYPE_K, TYPE_V = 0, 4, 8, 48, 104, 108


class Params(ctypes.Structure):
    """llama_model_params or llama_context_params; larger than either, which passing by value allows."""
    _fields_ = [("bytes", ctypes.c_uint8 * 512)]

    def get(self, place):
        return ctypes.c_int32.from_buffer(self, place).value

    def set(self, place, value):
        ctypes.c_int32.from_buffer(self, place).value = value


class Batch(ctypes.Structure):
    _fields_ = [("n_tokens", ctypes.c_int32), ("token", ctypes.POINTER(ctypes.c_int32)), ("embd", ctypes.c_void_p),
                ("pos", ctypes.POINTER(ctypes.c_int32)), ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
                ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))), ("logits", ctypes.POINTER(ctypes.c_int8))]


def declare(name, result, *arguments):
    f = getattr(LIBRARY, name)
    f.restype, f.argtypes = result, arguments
    return f


model_params = declare("llama_model_default_params", Params)
context_params = declare("llama_context_default_params", Params)
load_model = declare("llama_model_load_from_file", ctypes.c_void_p, ctypes.c_char_p, Params)
new_context = declare("llama_init_from_model", ctypes.c_void_p, ctypes.c_void_p, Params)
new_batch = declare("llama_batch_init", Batch, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32)
decode = declare("llama_decode", ctypes.c_int32, ctypes.c_void_p, Batch)
row = declare("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), ctypes.c_void_p, ctypes.c_int32)
free_context = declare("llama_free", None, ctypes.c_void_p)
free_model = declare("llama_model_free", None, ctypes.c_void_p)
LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
said = []
quiet = LOG(lambda level, text, _: said.append(text.decode(errors="replace")))
declare("llama_log_set", None, LOG, ctypes.c_void_p)(quiet, None)
LIBRARY.llama_backend_init()


def with_tokenizer(source, target, changed):
    """A copy whose tokens are t5, t6, ..., with some keys changed."""
    reader = gguf.GGUFReader(source)
    get = lambda key: reader.fields[key].contents()
    w = gguf.GGUFWriter(target, get("general.architecture"))
    for key, f in reader.fields.items():
        if key.startswith(("GGUF.", "tokenizer.")) or key == "general.architecture":
            continue
        kind = f.types[0]
        w.add_key_value(key, changed.get(key, f.contents()), kind, f.types[-1] if kind == GGUFValueType.ARRAY else None)
    size = next(t.shape[1] for t in reader.tensors if t.name == "token_embd.weight")
    w.add_tokenizer_model("llama")
    w.add_tokenizer_pre("default")
    wanted = ["<0x0A>", "<s>", "</s>", "<unk>", "<|endoftext|>"]  # llama.cpp looks for them
    w.add_token_list(wanted + [f"t{i}" for i in range(len(wanted), size)])
    w.add_token_scores([float(-i) for i in range(size)])
    w.add_token_types([gguf.TokenType.BYTE] + [gguf.TokenType.NORMAL] * (size - 1))
    for add in (w.add_bos_token_id, w.add_eos_token_id, w.add_unk_token_id):
        add(1)
    for t in reader.tensors:
        w.add_tensor(t.name, t.data, raw_dtype=t.tensor_type)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return size


def logits(path, ids, vocab, context_length):
    """Of each token of one sequence, in a context of context_length."""
    p = context_params()
    assert [p.get(x) for x in (CONTEXT, BATCH, MICRO_BATCH, FLASH_ATTENTION, TYPE_K, TYPE_V)] == [512, 2048, 512, -1, 1, 1], "another llama.h"
    p.set(CONTEXT, context_length)
    p.set(FLASH_ATTENTION, 0)  # it rounds to 16 bits
    p.set(TYPE_K, F32)
    p.set(TYPE_V, F32)
    model = load_model(str(path).encode(), model_params())
    assert model, "".join(said[-8:])
    context = new_context(model, p)
    assert context, "".join(said[-8:])
    batch = new_batch(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = int(token), i, 1, 0, 1
    assert decode(context, batch) == 0
    out = np.array([np.ctypeslib.as_array(row(context, i), (vocab,)) for i in range(len(ids))])
    free_context(context)
    free_model(model)
    return out


def differences(name, expected, sample):
    """Of each token's logits, as a part of the largest one."""
    e = expected[f"base_logits.{sample}"]
    short = name.startswith("phi3_longrope") and sample == 1
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.gguf"
        vocab = with_tokenizer(FIXTURES / "gguf" / f"{name}.gguf", path,
                               {"phi3.rope.scaling.original_context_length": 4096} if short else {})
        found = logits(path, expected[f"input_ids.{sample}"], vocab, len(e))
    return np.abs(found - e).max(axis=1) / np.abs(e).max()


def main():
    names = sys.argv[1:] or sorted(f.stem for f in (FIXTURES / "gguf").glob("*-f32.gguf"))
    for name in names:
        own = FIXTURES / "gguf" / f"{name}.expected.safetensors"
        expected = load_file(own if own.exists() else FIXTURES / "models" / name.removesuffix("-f32") / "expected.safetensors")
        off = [differences(name, expected, sample) for sample in (0, 1)]
        first = next((f", from token {i} of sample {s} on" for s in (0, 1) for i, x in enumerate(off[s]) if x > 0.01), "")
        print(f"{name:22} largest difference {max(o.max() for o in off):.1e} of the largest logit{first}", flush=True)


main()
