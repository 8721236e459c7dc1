"""fixtures/templates: conversations as transformers renders, tokenises and masks them by nine families' chat templates.

  FAMILY.jinja         the family's template, written from its public documentation
  FAMILY.marked.jinja  the same with {% generation %} around what the assistant says, up to its end-of-turn token; a line
                       break that the template writes after that token stays outside, since it is never generated
  edges-*              no family: marks at awkward places
  FAMILY.json          {"tokenizer": "chat_bpe" or "chat_spm" (fixtures/models), "added": [added tokens], "config": bos, eos, ...,
                       "cases": [...]}

A case has the row ("messages", perhaps "tools") and either "refused", the words of a template that will not have it, or
"text" and "ids" (`apply_chat_template` of the plain template), "mask" (`return_assistant_tokens_mask` of the marked one, which is
asserted to render the same) and "prompt" (the messages before the last reply with a generation prompt). "lost" names a field
that the template leaves out of the text: Mistral v0.3 writes the system message only when the user spoke last.

Run: .venv/bin/python scripts/make_template_fixtures.py      (deterministic)
"""
import json
import pathlib

from jinja2.exceptions import TemplateError
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "fixtures"
OUT = FIXTURES / "templates"


def special(*contents, **flags):
    return [{"content": c, "special": True, "lstrip": False, "rstrip": False} | flags for c in contents]


PHI = special("<|endoftext|>") + special("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", rstrip=True)
LLAMA_3 = special("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|python_tag|>")
QWEN_TOOLS = [t | {"special": False} for t in special("<tool_call>", "</tool_call>")]
QWEN_3 = [t | {"special": False} for t in special("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")]
MISTRAL = special("[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]")
S = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
IM = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}

EDGES_MARKS = [("{{ message.role[0] + message.content }}",
                "{{ message.role[0] }}{% if message.role == 'assistant' %}{% generation %}{{ message.content }}{% endgeneration %}"
                "{% else %}{{ message.content }}{% endif %}")]

# name: (base tokenizer, added tokens, special tokens by name, what to put into the template to mark it)
FAMILIES = {
    "smollm2": ("chat_bpe", [], IM | {"bos_token": "<|im_start|>", "unk_token": "<|endoftext|>"}, [
        ("{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}",
         "{{'<|im_start|>' + message['role'] + '\n'}}{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}"
         "{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}")]),
    "llama-2": ("chat_spm", [], S, [
        ("{{ ' '  + content.strip() + ' ' + eos_token }}", "{% generation %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endgeneration %}")]),
    "llama-3.1": ("chat_bpe", LLAMA_3, {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "pad_token": "<|end_of_text|>"}, [
        ("""        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
""", """        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {%- if message.role == 'assistant' %}
            {%- generation %}
                {{- message['content'] | trim + '<|eot_id|>' }}
            {%- endgeneration %}
        {%- else %}
            {{- message['content'] | trim + '<|eot_id|>' }}
        {%- endif %}
"""),
        ("""            {{- '{"name": "' + tool_call.name + '", ' }}
            {{- '"parameters": ' }}
            {{- tool_call.arguments | tojson }}
            {{- "}" }}
        {%- endif %}
        {%- if builtin_tools is defined %}
            {#- This means we're in ipython mode #}
            {{- "<|eom_id|>" }}
        {%- else %}
            {{- "<|eot_id|>" }}
        {%- endif %}
""", """            {%- generation %}
            {{- '{"name": "' + tool_call.name + '", ' }}
            {{- '"parameters": ' }}
            {{- tool_call.arguments | tojson }}
            {{- "}" }}
            {{- "<|eot_id|>" }}
            {%- endgeneration %}
        {%- endif %}
""")]),
    "mistral-v0.3": ("chat_spm", MISTRAL, S, [
        ("""        {{- "[TOOL_CALLS] [" }}
""", """        {%- generation %}
        {{- "[TOOL_CALLS] [" }}
"""),
        ("""                {{- "]" + eos_token }}
            {%- endif %}
        {%- endfor %}
""", """                {{- "]" + eos_token }}
            {%- endif %}
        {%- endfor %}
        {%- endgeneration %}
"""),
        ("""        {{- " " + message["content"]|trim + eos_token}}
""", """        {%- generation %}
        {{- " " + message["content"]|trim + eos_token}}
        {%- endgeneration %}
""")]),
    "qwen2.5": ("chat_bpe", QWEN_TOOLS, IM, [
        ("""(message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
""", """(message.role == "system" and not loop.first) %}
"""),
        ("""        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
""", """        {{- '<|im_start|>' + message.role + '\\n' }}
        {%- generation %}
        {%- if message.content %}
            {{- message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls or [] %}
"""),
        ("""            {{- '\\n<tool_call>\\n{"name": "' }}
""", """            {{- ('\\n' if message.content or not loop.first else '') + '<tool_call>\\n{"name": "' }}
"""),
        ("""        {%- endfor %}
        {{- '<|im_end|>\\n' }}
""", """        {%- endfor %}
        {{- '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\\n' }}
""")]),
    "qwen3": ("chat_bpe", QWEN_3, IM, [
        ("""        {%- if loop.index0 > ns.last_query_index %}
""", """        {{- '<|im_start|>' + message.role + '\\n' }}
        {%- generation %}
        {%- if loop.index0 > ns.last_query_index %}
"""),
        ("""                {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content""", """                {{- '<think>\\n' + reasoning_content"""),
        ("""            {%- else %}
                {{- '<|im_start|>' + message.role + '\\n' + content }}
""", """            {%- else %}
                {{- content }}
"""),
        ("""        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
""", """        {%- else %}
            {{- content }}
"""),
        ("""            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
""", """            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\\n' }}
""")]),
    "gemma-2": ("chat_spm", special("<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>"),
                {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}, [
        ("{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}",
         "{{ '<start_of_turn>' + role + '\n' }}{% if role == 'model' %}{% generation %}{{ message['content'] | trim + '<end_of_turn>' }}"
         "{% endgeneration %}{% else %}{{ message['content'] | trim + '<end_of_turn>' }}{% endif %}{{ '\n' }}")]),
    "phi-3": ("chat_spm", PHI, {"bos_token": "<s>", "eos_token": "<|endoftext|>", "unk_token": "<unk>", "pad_token": "<|endoftext|>"}, [
        ("{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}",
         "{{'<|assistant|>\n'}}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}{{ '\n' }}")]),
    "zephyr": ("chat_spm", [], S, [
        ("{{ '<|assistant|>\n'  + message['content'] + eos_token }}",
         "{{ '<|assistant|>\n' }}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}\n")]),
    "edges-bpe": ("chat_bpe", [], IM, EDGES_MARKS),
    "edges-spm": ("chat_spm", [], S, EDGES_MARKS),
}


def says(role, content, **more):
    return {"role": role, "content": content} | more


def user(text):
    return says("user", text)


def reply(text, **more):
    return says("assistant", text, **more)


def call(name, arguments, id):
    return {"type": "function", "function": {"name": name, "arguments": arguments}, "id": id}


SYSTEM = says("system", "You answer in one short sentence.")
SINGLE = [user("What is 3.14 + 2?"), reply("It is 5.14.")]
MULTI = [user("hello there"), reply("hello, how are you?"), user("  Fine - überall 你好!\n\nAnd the cat?  "),
         reply("The cat sat on the mat 🐈\nand the dog on the log."), user("hello there"), reply("assistant: bye 👋")]
WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "Tells the weather of a place <now>.",
    "parameters": {"type": "object", "properties": {"place": {"type": "string", "description": "The \"place\""}, "days": {"type": "integer"}},
                   "required": ["place"]}}}
CLOCK = {"type": "function", "function": {"name": "get_time", "description": "Tells the time.", "parameters": {"type": "object", "properties": {}}}}
ASKS = [user("Weather in Köln?"), says("assistant", None, tool_calls=[call("get_weather", {"place": "Köln", "days": 2}, "abcdefgh1")]),
        says("tool", "{\"sky\": \"rain\", \"c\": [7.5, 8]}", tool_call_id="abcdefgh1", name="get_weather"), reply("Rain, 8 degrees.")]
MORE = [user("Thanks. And in Ulm?"), says("assistant", None, tool_calls=[call("get_weather", {"place": "Ulm"}, "abcdefgh2")]),
        says("tool", "sun", tool_call_id="abcdefgh2", name="get_weather"), reply("Sun."), user("Good."), reply("Yes.")]
TWO_CALLS = [user("Weather and time?"),
             reply("I look.", tool_calls=[call("get_weather", {"place": "Ulm"}, "abcdefgh1"), call("get_time", {}, "abcdefgh2")]),
             says("tool", "sun", tool_call_id="abcdefgh1"), says("tool", "12:00", tool_call_id="abcdefgh2"), reply("Sun, at noon.")]
THINKS = [user("2+2?"), reply("<think>\ntwo and two\n</think>\n\n4"), user("3+3?"), reply("6", reasoning_content="three and three")]
REASONING = {"reasoning": {"messages": THINKS}, "reasoning by another name": {"messages": [user("2+2?"), reply("4", thinking="two")]},
             "reasoning between calls": {"messages": [ASKS[0], ASKS[1] | {"reasoning": "I look."}, *ASKS[2:], *MORE[:2]], "tools": [WEATHER]}}
END_OF_TURN = {"gemma-2": "<end_of_turn>", "phi-3": "<|end|>"}


def end_of_turn_inside(end):
    return [user("hello"), reply(f"a {end} b"), user(f"the {end} c"), reply(f"d{end}")]


CASES = {
    "single": {"messages": SINGLE}, "single with system": {"messages": [SYSTEM, *SINGLE]},
    "multi": {"messages": MULTI}, "multi with system": {"messages": [SYSTEM, *MULTI]},
    "not in turn": {"messages": [user("one"), *SINGLE]},
}
TOOL_CASES = {
    "tools not called": {"messages": SINGLE, "tools": [WEATHER, CLOCK]},
    "tools": {"messages": ASKS, "tools": [WEATHER]}, "tools with system": {"messages": [SYSTEM, *ASKS], "tools": [WEATHER, CLOCK]},
    "tools multi": {"messages": ASKS + MORE, "tools": [WEATHER]}, "ends with a call": {"messages": ASKS[:2], "tools": [WEATHER]},
    "two calls": {"messages": TWO_CALLS, "tools": [WEATHER, CLOCK]},
}
# Marks that begin or end inside a token or inside a character of several tokens, and ones that touch.
EDGES = {"edges": {"messages": [user("the"), reply("nd the cat 👋"), user("🐈"), reply("👋🐈"), reply("t hello"), user("dog "), reply(" 你"),
                                user("x"), reply("你\u0301"), user("e"), reply("ll"), reply("a")]}}
WITH_TOOLS = ("llama-3.1", "mistral-v0.3", "qwen2.5", "qwen3")


def make_tokenizer(base, added, config):
    """The base tokenizer with the added tokens behind its own, and no post-processor (templates write BOS)."""
    tokenizer = json.loads((FIXTURES / "models" / base / "tokenizer.json").read_text())
    first = len(tokenizer["model"]["vocab"])
    tokenizer["added_tokens"] += [{"id": first + i, "single_word": False, "normalized": False} | token for i, token in enumerate(added)]
    tokenizer["post_processor"] = None
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(tokenizer)), clean_up_tokenization_spaces=False, **config)


def render(tokenizer, template, row, prompt=False, mask=False, **more):
    messages = row["messages"][:-1] if prompt else row["messages"]
    return tokenizer.apply_chat_template(messages, tools=row.get("tools"), chat_template=template, add_generation_prompt=prompt,
                                         return_dict=mask, return_assistant_tokens_mask=mask, **more)


def make_case(tokenizer, template, marked, name, row):
    case = {"name": name} | row
    try:
        case["text"] = render(tokenizer, template, row, tokenize=False)
    except TemplateError as error:
        return case | {"refused": str(error)}
    out = render(tokenizer, marked, row, mask=True)
    assert render(tokenizer, marked, row, tokenize=False) == case["text"], (name, render(tokenizer, marked, row, tokenize=False), case["text"])
    ids = tokenizer(case["text"], add_special_tokens=False)["input_ids"]
    assert out["input_ids"] == ids and sum(out["assistant_masks"])
    system = [m["content"] for m in row["messages"] if m["role"] == "system"]
    lost = {"lost": "messages[0].content"} if system and system[0] not in case["text"] else {}
    return case | lost | {"ids": ids, "mask": out["assistant_masks"], "prompt": render(tokenizer, template, row, prompt=True, tokenize=False)}


def main():
    for family, (base, added, config, marks) in FAMILIES.items():
        template = marked = (OUT / f"{family}.jinja").read_text()
        for plain, with_mark in marks:
            assert marked.count(plain) == 1, (family, marked.count(plain), plain)
            marked = marked.replace(plain, with_mark)
        (OUT / f"{family}.marked.jinja").write_text(marked)
        tokenizer = make_tokenizer(base, added, config)
        rows = EDGES if family.startswith("edges") else CASES | (TOOL_CASES if family in WITH_TOOLS else {}) | (REASONING if family == "qwen3" else {})
        if not family.startswith("edges"):
            rows |= {"end of turn inside": {"messages": end_of_turn_inside(END_OF_TURN.get(family, config["eos_token"]))}}
        cases = [make_case(tokenizer, template, marked, name, row) for name, row in rows.items()]
        lines = ",\n  ".join(json.dumps(c, ensure_ascii=False) for c in cases)
        head = json.dumps({"tokenizer": base, "added": added, "config": config}, ensure_ascii=False)
        (OUT / f"{family}.json").write_text(f'{head[:-1]}, "cases": [\n  {lines}\n]}}\n')
        print(family, [c["name"] + (": refused" if "refused" in c else ": lost" if "lost" in c else "") for c in cases])


main()
