"""fixtures/template_corpus: what transformers makes of the same rows by a hundred chat templates.

  NAME.marked.jinja  written by hand: an imitation of a family's template, after its public format, with {% generation %} around
                     what the assistant generates. Texts are our own; what is kept is how the template goes about it.
                     awkward-* imitate nobody. `{#<#} ... {#>#}` encloses what is in the marked template only, `{#= ... #}`
                     what is in the plain one only (whitespace control as for any comment)
  NAME.jinja         the plain template, made from it
  NAME.json          {"tokenizer": "chat_bpe" or "chat_spm" (fixtures/models), "added": [added tokens], "config": bos, eos, ...,
                     "ends": [further tokens that end a generation, where eos is not the only one], "now": the unix time that
                     strftime_now saw, "note": what is debatable, "cases": [...]}
  rows.json          {name of a row: {"messages": [...], perhaps "tools": [...]}}

A case has "row", the name of its row ("inside" is a row of its own: "messages" stands in the case), and either "refused", the
words of the error, with "class" (TemplateError is raise_exception's), or

  text    apply_chat_template of the plain template
  ids     its ids, a character for each: U+0100 + id
  spans   [start, end) in characters of the text, one for each message of the assistant: what it generates, from where the
          generation prompt ends to its end-of-turn token, this one included; a line break that the template writes after it is
          not. Where the template has less in common with the generation prompt, from where that ends. If there is not one span
          for each message, spans that touch are one
  tokens  [start, end) of the tokens that hold any character of the spans
  tokens_of_marks  what return_assistant_tokens_mask gives for the marked template, where that is something else: of a mark's
          last character it takes the first token only
  lost    fields that the template does not write: the text is the same without them, or with other words in their place
  prompt  [n, rest]: the messages before the assistant's last one with a generation prompt are the text's first n characters
          and the rest; or the words of an error; absent if there is nothing before it

What is asserted: plain and marked template render the same or fail alike; the marks that transformers counts are where
characters written in their place stand; its mask is that of the marks; a last span begins where the prompt and the text part,
give or take one token, unless it answers a reply or NOT_AT_PROMPT lists the template with the reason.

Run: .venv/bin/python scripts/make_template_corpus.py      (deterministic)
"""
import datetime
import json
import os
import pathlib
import re

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "fixtures"
OUT = FIXTURES / "template_corpus"
NOW = 1722000000 - 1722000000 % 86400 + 43200  # 26 July 2024, noon, so that the date is the same in nearly every time zone


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(NOW, datetime.timezone.utc)


chat_template_utils.datetime = Clock


class Family:
    """Tokenizer and names of special tokens. `tokens` are added, space-separated, and special; `words` are added and not."""

    def __init__(self, base, eos, tokens="", words="", bos=None, ends=(), opens="<|im_start|>assistant\n", closes=None, note=None, rstrip=False):
        self.base, self.ends, self.note, self.opens, self.closes = base, [t for t in ends if t != eos], note, opens, closes or eos
        own = {"chat_bpe": {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}, "chat_spm": {"<unk>", "<s>", "</s>"}}[base]
        self.added = [{"content": c, "special": kind, "lstrip": False, "rstrip": rstrip and kind}
                      for kind, names in ((True, tokens), (False, words)) for c in names.split() if c not in own]
        self.config = ({"bos_token": bos} if bos else {}) | {"eos_token": eos} | \
            ({"pad_token": "<|endoftext|>"} if base == "chat_bpe" else {"pad_token": "</s>", "unk_token": "<unk>"})

    def about(self):
        return {"tokenizer": self.base, "added": self.added, "config": self.config} | ({"ends": self.ends} if self.ends else {}) | \
            {"now": NOW} | ({"note": self.note} if self.note else {})

    def load(self):
        tokenizer = json.loads((FIXTURES / "models" / self.base / "tokenizer.json").read_text())
        first = len(tokenizer["model"]["vocab"])
        tokenizer["added_tokens"] += [{"id": first + i, "single_word": False, "normalized": False} | t for i, t in enumerate(self.added)]
        tokenizer["post_processor"] = None
        return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(tokenizer)), clean_up_tokenization_spaces=False, **self.config)


TOOL_WORDS = "<tool_call> </tool_call> <tool_response> </tool_response>"
THINK_WORDS = TOOL_WORDS + " <think> </think>"
LLAMA_3 = "<|begin_of_text|> <|end_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|> <|eom_id|> <|python_tag|>"
LLAMA_3_OPENS = "<|start_header_id|>assistant<|end_header_id|>\n\n"
DEEPSEEK = ("<｜begin▁of▁sentence｜> <｜end▁of▁sentence｜> <｜User｜> <｜Assistant｜> <｜tool▁calls▁begin｜> <｜tool▁call▁begin｜> <｜tool▁sep｜> "
            "<｜tool▁call▁end｜> <｜tool▁calls▁end｜> <｜tool▁outputs▁begin｜> <｜tool▁output▁begin｜> <｜tool▁output▁end｜> <｜tool▁outputs▁end｜>")
GEMMA = "<bos> <eos> <start_of_turn> <end_of_turn> <start_of_image>"
MISTRAL = ("[INST] [/INST] [TOOL_CALLS] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_RESULTS] [/TOOL_RESULTS] [SYSTEM_PROMPT] [/SYSTEM_PROMPT] "
           "[IMG] [ARGS] [THINK] [/THINK]")
GRANITE = "<|start_of_role|> <|end_of_role|> <|end_of_text|> <|tool_call|>"
COHERE = ("<BOS_TOKEN> <|START_OF_TURN_TOKEN|> <|END_OF_TURN_TOKEN|> <|USER_TOKEN|> <|CHATBOT_TOKEN|> <|SYSTEM_TOKEN|> <|START_RESPONSE|> <|END_RESPONSE|> "
          "<|START_ACTION|> <|END_ACTION|> <|START_THINKING|> <|END_THINKING|> <|START_TOOL_RESULT|> <|END_TOOL_RESULT|>")
THINK_PROMPT = ("The generation prompt opens the reasoning. A reply whose reasoning the template writes begins after that; one without any "
                "begins where the prompt's opening would stand.")
FORGETS_END = "Nothing ends the last reply; the span ends with its words."
WITHOUT_END = "The template writes no end-of-turn token: the token that opens the next turn ends a generation. Spans end with the words."


def chatml(words="", **more):
    return Family("chat_bpe", **{"eos": "<|im_end|>", "words": words} | more)


def spm(tokens="", **more):
    return Family("chat_spm", **{"eos": "</s>", "bos": "<s>", "tokens": tokens} | more)


def llama3(**more):
    return Family("chat_bpe", "<|eot_id|>", LLAMA_3, bos="<|begin_of_text|>", ends=["<|end_of_text|>", "<|eom_id|>"], opens=LLAMA_3_OPENS, **more)


def deepseek(**more):
    return Family("chat_bpe", "<｜end▁of▁sentence｜>", DEEPSEEK, "<think> </think>", bos="<｜begin▁of▁sentence｜>", opens="<｜Assistant｜>", **more)


def gemma(**more):
    return Family("chat_spm", "<eos>", GEMMA, bos="<bos>", ends=["<end_of_turn>"], opens="<start_of_turn>model\n", closes="<end_of_turn>", **more)


def phi(tokens="<|system|> <|user|> <|assistant|> <|end|>", **more):
    return Family("chat_bpe", "<|endoftext|>", tokens, ends=["<|end|>"], opens="<|assistant|>\n", closes="<|end|>", **more)


def granite(**more):
    return Family("chat_bpe", "<|end_of_text|>", GRANITE, TOOL_WORDS, opens="<|start_of_role|>assistant<|end_of_role|>", **more)


FAMILIES = {
    "qwen1.5": chatml(note="Nothing ends the last reply of a row that has no generation prompt; the span ends with its words."),
    "qwen2": chatml(),
    "qwen2.5": chatml(TOOL_WORDS),
    "qwen2.5-coder": chatml(TOOL_WORDS),
    "qwen2.5-vl": chatml("<|vision_start|> <|vision_end|> <|image_pad|>"),
    "qwq": chatml(THINK_WORDS, note=THINK_PROMPT),
    "qwen3": chatml(THINK_WORDS),
    "qwen3-thinking-2507": chatml(THINK_WORDS, note=THINK_PROMPT),
    "qwen3-instruct-2507": chatml(THINK_WORDS),
    "qwen3-coder": chatml(TOOL_WORDS),
    "qwen3.5": chatml(THINK_WORDS, note=THINK_PROMPT),
    "deepseek-v2": Family("chat_bpe", "<｜end▁of▁sentence｜>", DEEPSEEK, bos="<｜begin▁of▁sentence｜>", opens="Assistant:"),
    "deepseek-coder": Family("chat_bpe", "<|EOT|>", DEEPSEEK + " <|EOT|>", bos="<｜begin▁of▁sentence｜>", opens="### Response:\n",
        note="A line break stands before the end-of-turn token, and is generated with it."),
    "deepseek-v3": deepseek(),
    "deepseek-v3.1": deepseek(note="The prompt closes the reasoning at once: `</think>` is not generated."),
    "deepseek-r1": deepseek(note=THINK_PROMPT + " The template drops all reasoning, so every reply does."),
    "llama-2": spm(opens="[INST] "),
    "llama-3": llama3(),
    "llama-3.1": llama3(),
    "llama-3.2": llama3(),
    "llama-3.3": llama3(),
    "llama-4": Family("chat_bpe", "<|eot|>",
        "<|begin_of_text|> <|header_start|> <|header_end|> <|eot|> <|eom|> <|python_start|> <|python_end|> <|image|>",
        bos="<|begin_of_text|>", opens="<|header_start|>assistant<|header_end|>\n\n"),
    "gemma-1": gemma(),
    "gemma-2": gemma(),
    "gemma-3": gemma(),
    "gemma-4": Family("chat_spm", "<eos>",
        "<bos> <eos> <|turn> <turn|> <|tool> <tool|> <|tool_call> <tool_call|> <|tool_response> <tool_response|> <|channel> "
        '<channel|> <|image|> <|"|>', bos="<bos>", ends=["<turn|>", "<|tool_response>"], opens="<|turn>model\n", closes="<turn|>",
        note="A message that calls tools ends with its last `<tool_call|>`; results and the reply go on in the same turn, without "
             "a header."),
    "phi-3": phi(bos="<s>",
        note="A user's turn writes the assistant's header itself, so a row may end with it, and add_generation_prompt means "
             "nothing."),
    "phi-3.5": phi(rstrip=True),
    "phi-4-mini": phi("<|system|> <|user|> <|assistant|> <|tool|> <|/tool|> <|end|>"),
    "phi-4": chatml(tokens="<|im_sep|>", opens="<|im_start|>assistant<|im_sep|>"),
    "phi-4-reasoning": chatml("<think> </think>", tokens="<|im_sep|>", opens="<|im_start|>assistant<|im_sep|>"),
    "gpt-oss": Family("chat_bpe", "<|return|>", "<|start|> <|end|> <|message|> <|channel|> <|call|> <|return|>",
        ends=["<|return|>", "<|call|>"], opens="<|start|>assistant", closes="<|end|>",
        note="A reply is all messages of it that the template writes: analysis, `<|end|><|start|>assistant` and final. Only the "
             "last ends with `<|return|>`; earlier ones are written again with `<|end|>` and without analysis."),
    "glm-4": Family("chat_bpe", "<|endoftext|>", "[gMASK] <sop> <|system|> <|user|> <|assistant|> <|observation|>",
        ends=["<|endoftext|>", "<|user|>", "<|observation|>"], opens="<|assistant|>", closes="<|user|>",
        note=WITHOUT_END + " Two calls of one message are two turns, each with its header."),
    "glm-4.5": Family("chat_bpe", "<|endoftext|>", "[gMASK] <sop> <|system|> <|user|> <|assistant|> <|observation|>",
        THINK_WORDS + " <arg_key> </arg_key> <arg_value> </arg_value>", ends=["<|endoftext|>", "<|user|>", "<|observation|>"],
        opens="<|assistant|>", closes="<|user|>", note=WITHOUT_END),
    "granite-3.1": granite(),
    "granite-3.3": granite(),
    "granite-4": granite(),
    "command-r": Family("chat_bpe", "<|END_OF_TURN_TOKEN|>", COHERE, bos="<BOS_TOKEN>", opens="<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"),
    "command-r7b": Family("chat_bpe", "<|END_OF_TURN_TOKEN|>", COHERE, bos="<BOS_TOKEN>", opens="<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"),
    "mistral-v1": spm(opens="[INST] "),
    "mistral-v3": spm(MISTRAL, opens="[INST] "),
    "mistral-nemo": Family("chat_bpe", "</s>", MISTRAL + " <s> </s>", bos="<s>", opens="[INST]"),
    "mistral-v7": spm(MISTRAL, opens="[INST]"),
    "magistral": spm(MISTRAL, opens="[INST]"),
    "ministral-3": Family("chat_bpe", "</s>", MISTRAL + " <s> </s>", bos="<s>", opens="[INST]"),
    "zephyr": spm(opens="<|assistant|>\n"),
    "smollm2": chatml(bos="<|im_start|>"),
    "smollm3": chatml(THINK_WORDS, note="With /no_think the prompt writes an empty reasoning, so that is not generated."),
    "olmo-2": Family("chat_bpe", "<|endoftext|>", bos="<|endoftext|>", opens="<|assistant|>\n"),
    "tulu-3": Family("chat_bpe", "<|end_of_text|>", "<|end_of_text|>", opens="<|assistant|>\n"),
    "olmo-3": Family("chat_bpe", "<|endoftext|>", ends=["<|endoftext|>", "<|im_end|>"], closes="<|im_end|>",
        note=THINK_PROMPT + " Replies are written as they are."),
    "nemotron-nano-v1": llama3(),
    "nemotron-nano-v2": Family("chat_bpe", "<SPECIAL_12>", "<s> <SPECIAL_10> <SPECIAL_11> <SPECIAL_12>", "<think> </think>", bos="<s>",
        opens="<SPECIAL_11>Assistant\n",
        note=THINK_PROMPT + " Only the last reply is written with the opening, as it is; the line break before `<SPECIAL_12>` is "
                            "generated with it."),
    "mimo": chatml(THINK_WORDS, note=THINK_PROMPT),
    "hermes-3": chatml(TOOL_WORDS, tokens="<|begin_of_text|>", bos="<|begin_of_text|>"),
    "alpaca": spm(opens="### Response:\n"),
    "vicuna": spm(opens=" ASSISTANT:"),
    "chatml": chatml(),
    "dolphin": chatml(),
    "internlm2": Family("chat_spm", "</s>", "<|im_start|> <|im_end|>", bos="<s>", ends=["<|im_end|>"], closes="<|im_end|>"),
    "orca-2": spm("<|im_start|> <|im_end|>", ends=["<|im_end|>"], closes="<|im_end|>"),
    "openchat": spm("<|end_of_turn|>", eos="<|end_of_turn|>", opens="GPT4 Correct Assistant:"),
    "falcon-3": Family("chat_bpe", "<|endoftext|>", "<|system|> <|user|> <|assistant|>", opens="<|assistant|>\n"),
    "yi": Family("chat_spm", "<|im_end|>", "<|im_start|> <|im_end|>", note="A user's turn writes the assistant's header itself."),
    "starcoder2-instruct": Family("chat_bpe", "<|endoftext|>", bos="<|endoftext|>", opens="### Response\n",
        note="The header of a next reply stands at the end of every row; it is not generated."),
    "stablelm-2": Family("chat_bpe", "<|endoftext|>", opens="<|assistant|>\n"),
    "solar": spm(opens="### Assistant:\n", note=FORGETS_END),
    "orca-mini": spm(opens="### Response:\n", note=FORGETS_END),
    "exaone-3.5": Family("chat_bpe", "[|endofturn|]", "[|system|] [|user|] [|assistant|] [|endofturn|]", opens="[|assistant|]"),
    "exaone-4": Family("chat_bpe", "[|endofturn|]", "[|system|] [|user|] [|assistant|] [|tool|] [|endofturn|]", THINK_WORDS,
        opens="[|assistant|]\n",
        note="The prompt writes an empty reasoning. A reply with an empty one begins after that. One with its own begins after "
             "`<think>` and its line break, where it parts from the prompt."),
    "hunyuan": Family("chat_bpe", "<｜hy_place▁holder▁no▁2｜>",
        "<｜hy_begin▁of▁sentence｜> <｜hy_User｜> <｜hy_Assistant｜> <｜hy_place▁holder▁no▁2｜> <｜hy_place▁holder▁no▁3｜>",
        opens="<｜hy_Assistant｜>"),
    "seed-oss": Family("chat_bpe", "<seed:eos>", "<seed:bos> <seed:eos>", "<seed:think> </seed:think> <seed:tool_call> </seed:tool_call>",
        bos="<seed:bos>", opens="<seed:bos>assistant\n"),
    "kimi-k2": Family("chat_bpe", "<|im_end|>",
        "<|im_system|> <|im_user|> <|im_assistant|> <|im_middle|> <|tool_calls_section_begin|> <|tool_calls_section_end|> "
        "<|tool_call_begin|> <|tool_call_argument_begin|> <|tool_call_end|>", opens="<|im_assistant|>assistant<|im_middle|>"),
    "lfm2": chatml("<think> </think>",
        tokens="<|startoftext|> <|tool_list_start|> <|tool_list_end|> <|tool_call_start|> <|tool_call_end|> "
               "<|tool_response_start|> <|tool_response_end|>", bos="<|startoftext|>"),
    "jamba": Family("chat_bpe", "<|eom|>", "<|startoftext|> <|bom|> <|eom|> <|system|> <|user|> <|assistant|> <|tool|>",
        bos="<|startoftext|>", opens="<|bom|><|assistant|>"),
    "apertus": Family("chat_bpe", "<|assistant_end|>",
        "<s> <|system_start|> <|system_end|> <|developer_start|> <|developer_end|> <|user_start|> <|user_end|> "
        "<|assistant_start|> <|assistant_end|> <|inner_prefix|> <|inner_suffix|> <|tools_prefix|> <|tools_suffix|>", bos="<s>",
        ends=["<|assistant_end|>", "<|tools_suffix|>"], opens="<|assistant_start|>",
        note="Replies, calls and results that follow each other are one turn, and one `<|assistant_end|>` ends it. Results, in "
             "brackets, are not generated."),
    "minimax-m2": Family("chat_bpe", "[e~[", "]~!b[ ]~b] [e~[", THINK_WORDS + " <minimax:tool_call> </minimax:tool_call>",
        opens="]~b]ai\n", note=THINK_PROMPT),
    "ernie-4.5": spm("<|begin_of_sentence|>", opens="Assistant: "),
    "baichuan-2": spm("<reserved_106> <reserved_107>", opens="<reserved_107>"),
    "minicpm": spm("<用户> <AI>", opens="<AI>", note=FORGETS_END),
    "reka-flash": Family("chat_bpe", "<sep>", "<sep> <|startoftext|>", bos="<|startoftext|>", opens="assistant:"),
    "ling": Family("chat_bpe", "<|role_end|>", "<role> </role> <|role_end|>", opens="<role>ASSISTANT</role>"),
    "dots": Family("chat_bpe", "<|endofresponse|>",
        "<|system|> <|endofsystem|> <|userprompt|> <|endofuserprompt|> <|response|> <|endofresponse|>", opens="<|response|>"),
    "grok-2": Family("chat_bpe", "<|separator|>", "<|separator|>", opens="Assistant:"),
    "rwkv": Family("chat_bpe", "<|rwkv_tokenizer_end_of_text|>", "<|rwkv_tokenizer_end_of_text|>", opens="Assistant:", closes="\n\n",
        note="Two line breaks end a turn and are generated; no token does."),
    "awkward-crlf": chatml(note="Jinja makes \\n of the line ends of a template, not of those of a row."),
    "awkward-strips-reply": chatml(),
    "awkward-drops-earlier-reasoning": chatml("<think> </think>"),
    "awkward-between-turns": chatml(opens="[assistant] "),
    "awkward-assistant-begins": spm("<scene> </scene> <model> </model> <user> </user> <rules> </rules>", eos="</model>",
        ends=["</model>", "</scene>"], opens="<model>",
        note="What the assistant says first stands before everything, in a form of its own."),
    "awkward-eos-at-the-end": spm(opens="A: ", closes=";",
        note="A semicolon ends every turn; `</s>` stands once, after everything, behind a line break, and is not generated."),
    "awkward-repeats-reply": chatml(
        note="The header tells the length of the reply; the prompt, which cannot, ends before that. The span begins with the "
             "reply, behind the header's line break, though the prompt parts from the text before. The second writing of the "
             "reply is not generated."),
    "awkward-prompt-has-more": chatml(
        note="The prompt's first words of the reply are not in the finished turn; a reply begins behind the header."),
    "awkward-lower-cases-reply": chatml(),
    "awkward-merges": chatml(
        note="Messages of one role that follow each other are one turn; an earlier one's span ends with the empty line that joins "
             "them."),
    "awkward-counts-turns": chatml(opens="/",
        note="Every line changes with the number of messages and their length, so no prompt is a prefix of its row."),
    "awkward-last-question-on-top": chatml(),
    "awkward-quotes-reply": chatml(opens='{"assistant": ', closes="}",
        note="A reply is written as JSON text; the brace that closes it is its end."),
    "awkward-newest-first": chatml(
        note="The newest message comes first, so a reply stands before what it answers, and spans are in the order of the text, "
             "the last reply's first."),
    "awkward-drops-last-newline": Family("chat_bpe", "<|endoftext|>", ends=["<|endoftext|>", "<|im_end|>"], closes="<|im_end|>",
        note="`<|im_end|>` ends a turn, but the last one ends with `<|endoftext|>`."),
    "awkward-jinja-values": chatml(opens="assistant: "),
    "awkward-jinja-strings": chatml(opens="assistant: "),
    "awkward-jinja-flow": chatml(opens="assistant: "),
}
# Where a last reply does not begin at the place where the prompt and the text part: why.
NOT_AT_PROMPT = {
    "gpt-oss": "the analysis before a call is left out once a final message follows",
    "hermes-3": "a result ends with a line break once something follows",
    "lfm2": "earlier replies lose their reasoning once another reply follows",
    "dots": "there is a prompt only after a user's message",
    "awkward-between-turns": "it writes what comes next",
    "mistral-v3": "tools and the system message go to the last user message, or nowhere",
    "mistral-nemo": "tools and the system message go to the last user message, or nowhere",
    "awkward-counts-turns": "see its note", "awkward-repeats-reply": "see its note", "awkward-newest-first": "see its note",
    "awkward-assistant-begins": "see its note", "awkward-jinja-values": "it writes the number of messages",
        "awkward-jinja-flow": "it writes the number of messages",
}


def says(role, content, **more):
    return {"role": role, "content": content} | more


def user(text):
    return says("user", text)


def reply(text, **more):
    return says("assistant", text, **more)


def call(name, arguments, id):
    return {"type": "function", "function": {"name": name, "arguments": arguments}, "id": id}


def calls(*calls, content=None, **more):
    return says("assistant", content, tool_calls=list(calls), **more)


def result(text, id, name="weather"):
    return says("tool", text, tool_call_id=id, name=name)


def parts(*texts):
    return [{"type": "text", "text": t} for t in texts]


SYSTEM = says("system", "Be brief.")
WEATHER = {"type": "function", "function": {
    "name": "weather", "description": "Tells <now> of a \"place\".",
    "parameters": {"type": "object", "properties": {"place": {"type": "string", "description": "Where & when"}, "days": {"type": "integer", "default": 1},
                                                    "of": {"type": "array", "items": {"type": "string", "enum": ["sun", "rain"]}}}, "required": ["place"]}}}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "The time.", "parameters": {"type": "object", "properties": {}}}}
ASKS = [user("Weather in Köln?"), calls(call("weather", {"place": "Köln", "days": 2}, "abcdefgh1")),
        result('{"sky": "rain", "c": [7.5, 8]}', "abcdefgh1"), reply("Rain.")]
ROWS = {
    "multi": {"messages": [
        SYSTEM, user("hello there"), reply("hello, how are you?"), user("  Fine - überall 你好!\n\nThe cat?  "),
        reply("On the mat 🐈\nand the log."), user("hello there"), reply("bye 👋")]},
    "single": {"messages": [user("Say: It is 5.14."), reply("It is 5.14.")]},
    "assistant first": {"messages": [reply("Hello, what is it?"), user("The cat?"), reply("On the mat.")]},
    "system, then assistant": {"messages": [SYSTEM, reply("Yes?"), user("No."), reply("Oh.")]},
    "tools": {"messages": [*ASKS, user("And Ulm?"), reply("Sun.")], "tools": [WEATHER]},
    "two calls": {"tools": [WEATHER, CLOCK], "messages": [
        SYSTEM, user("Weather and time?"),
        calls(call("weather", {"place": 'U"lm', "days": 1.5, "of": ["sun", None, True]}, "abcdefgh1"), call("clock", {}, "abcdefgh2"), content="I look."),
        result("sun", "abcdefgh1"), result("12:00", "abcdefgh2", "clock"), reply("Sun, noon.")]},
    "ends with a call": {"messages": ASKS[:2], "tools": [WEATHER]},
    "reasoning": {"messages": [user("2+2?"), reply("4", reasoning_content="two and two"), user("3+3?"), reply("6", reasoning_content="\nthree\n\nand three\n")]},
    "reasoning in content": {"messages": [user("2+2?"), reply("<think>\ntwo and two\n</think>\n\n4"), user("3+3?"), reply("<think>\nthree\n</think>\n\n6")]},
    "reasoning between calls": {"tools": [WEATHER], "messages": [
        ASKS[0], ASKS[1] | {"thinking": "I look."}, ASKS[2], calls(call("weather", {"place": "Ulm"}, "abcdefgh2"), reasoning="And Ulm."),
        result("sun", "abcdefgh2"), reply("Rain, sun.", reasoning_content="Done.")]},
    "ends with the user": {"messages": [user("hello"), reply("hello."), user("bye")]},
    "replies in a row": {"messages": [user("Count."), reply("one"), reply("two"), user("On."), reply("three"), reply("four")]},
    "users in a row": {"messages": [user("one"), user("two"), reply("three")]},
    "system later": {"messages": [user("hello"), reply("Yes?"), says("system", "In German."), user("bye"), reply("tschüß")]},
    "parts": {"messages": [user(parts("What ", " is it?")), reply(parts("A cat.")), user("Sure?"), reply("Yes.")]},
    "parts apart": {"messages": [
        says("system", parts("Be ", "brief.")), user(parts(" What\n", "  is it? ", "Say.")), reply(parts("A cat. ", " A log.")), user("Sure?"), reply("Yes.")]},
    "odd texts": {"messages": [
        user("\u00a0 the\u3000"), reply("\n\nthe\r\nDOG\n "), user(""), reply(""), user("\u001fx"), reply("  "), user("Σ"),
        reply("\u00a0ΑΣ 'ẞ' İ\u2028 {{ x }} {% y %}\u00a0")]},
    "switches": {"messages": [says("system", "detailed thinking off\n/no_think"), user("2+2? /no_think"), reply("4")]},
    "tools of the system": {"messages": [says("system", "Be brief.", tools='[{"name": "f"}]'), user("2+2?"), reply("4")]},
}
FOR_TOOLS = ("two calls", "ends with a call", "reasoning between calls")


def inside(family):
    """Marks of the template in what people say."""
    opens, closes = family.opens, family.closes
    return {"messages": [user(f"the {closes} c"), reply(f"a {closes} b"), user(f"d{closes}\n{opens}e"), reply(f"{opens}f{closes}")]}


def plain_of(marked):
    """The plain template of a marked one."""
    text = re.sub(r"\r?\n?[ \t]*\{#-?<#\}.*?\{#-?>#\}", lambda m: "", marked, flags=re.S)
    text = re.sub(r"\{#-?= ?(.*?) ?#\}", r"\1", text, flags=re.S)
    # One expression for every role is two, in a condition, where one role is marked.
    begins, speaks = r"(?:\{\{ ([^{}]*) \}\})?\{% if [^%]* %\}", r"\{% generation %\}\{\{ ([^{}]*) \}\}\{% endgeneration %\}"
    ends = r"\{% else %\}\{\{ \2 \}\}\{% endif %\}(?:\{\{ ('\\n'|'\n') \}\})?"
    text = re.sub(begins + speaks + ends, lambda m: "{{ " + " + ".join(p for p in m.groups() if p) + " }}", text)
    text = re.sub(r"^[ \t]*\{%-? (?:end)?generation -?%\}\r?\n", "", text, flags=re.M)
    return re.sub(r"\{%-? (?:end)?generation -?%\}", "", text)


def render(tokenizer, template, row, prompt_of=None, **more):
    """Text, or ids with more; ("refused", words, class) if that fails."""
    messages = row["messages"] if prompt_of is None else row["messages"][:prompt_of]
    try:
        return tokenizer.apply_chat_template(messages, tools=row.get("tools"), chat_template=template,
                                             add_generation_prompt=prompt_of is not None, **more)
    except Exception as error:  # whatever a template does wrong
        return ("refused", str(error), type(error).__name__)


def spans_of(tokenizer, marked, row):
    """What the template marks, as transformers counts it and as characters in the marks' place show it."""
    messages = [{k: v for k, v in m.items() if v is not None} for m in row["messages"]]
    ((text,), (spans,)) = chat_template_utils.render_jinja_template(
        [messages], tools=row.get("tools"), chat_template=marked, return_assistant_tokens_mask=True, **tokenizer.special_tokens_map)
    begin, end = "\ue000", "\ue001"
    shown = marked
    for tag, character in (("generation", begin), ("endgeneration", end)):
        shown = re.sub(r"\{%(-?) " + tag + r" (-?)%\}", rf"{{%\1 if true %}}{character}{{% endif \2%}}", shown)
    written = render(tokenizer, shown, row, tokenize=False)
    seen, at = [], 0
    for piece in re.split(f"([{begin}{end}])", written):
        if piece == begin:
            seen.append([at])
        elif piece == end:
            seen[-1].append(at)
        else:
            at += len(piece)
    spans = [list(s) for s in spans]
    assert seen == spans and written.replace(begin, "").replace(end, "") == text, (seen, spans, written)
    return spans


def mask_of(tokenizer, text, spans, whole):
    """The whole tokens of a span's characters; else transformers' rule, to the first token that holds the last character."""
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    mask = [0] * len(encoding["input_ids"])
    for start, end in spans:
        if start < end:
            first, last = encoding.char_to_token(start), encoding.char_to_token(end - 1)
            while whole and last + 1 < len(mask) and encoding["offset_mapping"][last + 1][0] < end:
                last += 1
            mask[first:last + 1] = [1] * (last + 1 - first)
    return mask


REASONING = {"reasoning_content", "thinking", "reasoning"}


def lost_fields(tokenizer, plain, row, text):
    """What may be left out or said otherwise, and the text is the same."""
    def same(row):
        return render(tokenizer, plain, row, tokenize=False) == text
    if "tools" in row and same(row | {"tools": None}):
        yield "tools"
    for i, tool in enumerate(row.get("tools") or []):
        def others(*tool):
            return row | {"tools": [*row["tools"][:i], *tool, *row["tools"][i + 1:]] or None}
        if same(others()):
            yield f"tools[{i}]"
        for key, empty in {"description": "", "parameters": {"type": "object", "properties": {}}}.items():
            function = tool["function"]
            if function.get(key) not in (None, empty) and same(others(tool | {"function": function | {key: empty}})):
                yield f"tools[{i}].function.{key}"
    for i, message in enumerate(row["messages"]):
        def other(message):
            return row | {"messages": row["messages"][:i] + [message] + row["messages"][i + 1:]}
        if "tool_calls" in message and same(other({k: v for k, v in message.items() if k != "tool_calls"})):
            yield f"messages[{i}].tool_calls"
        calls = message.get("tool_calls") or []
        for j, call in enumerate(calls):
            place = f"messages[{i}].tool_calls[{j}]"
            def others(*call):
                return other(message | {"tool_calls": [*calls[:j], *call, *calls[j + 1:]]})
            def with_function(**changed):
                return others(call | {"function": call["function"] | changed})
            if len(calls) > 1 and same(others()):
                yield place
            if same(with_function(name="\ue002")):
                yield f"{place}.function.name"
            arguments = call["function"]["arguments"]
            for key in arguments:
                if same(with_function(arguments={k: v for k, v in arguments.items() if k != key})):
                    yield f"{place}.function.arguments.{key}"
        if message.get("tools") and same(other({k: v for k, v in message.items() if k != "tools"})):
            yield f"messages[{i}].tools"
        reasoning = REASONING & message.keys()
        if reasoning and same(other({k: v for k, v in message.items() if k not in reasoning})):
            yield f"messages[{i}].reasoning_content"
        words = "\ue002" if isinstance(message["content"], str) else parts("\ue002")
        if message["content"] and same(other(message | {"content": words})):
            yield f"messages[{i}].content"


def joined(spans):
    out = []
    for start, end in spans:
        if out and out[-1][1] == start:
            out[-1][1] = end
        else:
            out.append([start, end])
    return out


def ranges(mask):
    out = []
    for i, m in enumerate(mask):
        if m and out and out[-1][1] == i:
            out[-1][1] = i + 1
        elif m:
            out.append([i, i + 1])
    return out


def check_beginning(name, case, tokenizer, start, prompt):
    """A last reply begins where the prompt and the text part."""
    text = case["text"]
    parts_at = len(os.path.commonprefix([prompt, text]))
    ids, of_prompt = (tokenizer(t, add_special_tokens=False, return_offsets_mapping=True) for t in (text, prompt))
    same = len(os.path.commonprefix([ids["input_ids"], of_prompt["input_ids"]]))
    tokens_part_at = ids["offset_mapping"][same][0] if same < len(ids["input_ids"]) else len(text)
    if not (start == parts_at or parts_at < len(prompt) and min(tokens_part_at, parts_at - 1) <= start <= parts_at):
        assert name in NOT_AT_PROMPT, (name, case["row"], text[:start], "|", text[start:], prompt)


def make_case(name, tokenizer, plain, marked, row_name, row):
    case = {"row": row_name} | (row if row_name == "inside" else {})
    text = render(tokenizer, plain, row, tokenize=False)
    of_marked = render(tokenizer, marked, row, tokenize=False)
    if isinstance(text, tuple):
        # Python's own words may differ: the marked template adds the same strings in another order.
        assert text[2] == of_marked[2] and (text == of_marked or text[2] == "TypeError"), (name, row_name, text, of_marked)
        return case | {"refused": text[1], "class": text[2]}
    assert text == of_marked, (name, row_name, text, of_marked)
    ids = render(tokenizer, plain, row, return_dict=False)
    marks = spans_of(tokenizer, marked, row)
    replies = [i for i, m in enumerate(row["messages"]) if m["role"] == "assistant"]
    spans = marks if len(marks) == len(replies) else joined(marks)
    case |= {"text": text, "ids": "".join(chr(0x100 + i) for i in ids), "spans": spans}
    out = render(tokenizer, marked, row, return_dict=True, return_assistant_tokens_mask=True)
    assert out["input_ids"] == ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    case["tokens"], by_rule = (ranges(mask_of(tokenizer, text, s, whole)) for s, whole in ((spans, True), (marks, False)))
    assert by_rule == ranges(out["assistant_masks"]), (name, row_name, by_rule, ranges(out["assistant_masks"]))
    if by_rule != case["tokens"]:
        case["tokens_of_marks"] = by_rule
    if lost := list(lost_fields(tokenizer, plain, row, text)):
        case["lost"] = lost
    if replies and replies[-1] > 0:
        prompt = render(tokenizer, plain, row, prompt_of=replies[-1], tokenize=False)
        assert prompt == render(tokenizer, marked, row, prompt_of=replies[-1], tokenize=False)
        if isinstance(prompt, tuple):
            return case | {"prompt": prompt[1]}
        shared = len(os.path.commonprefix([prompt, text]))
        case["prompt"] = [shared, prompt[shared:]]
        if spans and row["messages"][-1]["role"] == "assistant" != row["messages"][-2]["role"]:
            check_beginning(name, case, tokenizer, spans[-1][0], prompt)
    return case


def as_json(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def write_cases(path, head, cases):
    path.write_bytes((head[:-1] + ',"cases":[\n' + ",\n".join(map(as_json, cases)) + "\n]}\n").encode())


def main():
    assert sorted(FAMILIES) == sorted(p.name.removesuffix(".marked.jinja") for p in OUT.glob("*.marked.jinja"))
    (OUT / "rows.json").write_bytes(("{\n" + ",\n".join(f"{as_json(name)}:{as_json(row)}" for name, row in ROWS.items()) + "\n}\n").encode())
    for name, family in FAMILIES.items():
        marked = (OUT / f"{name}.marked.jinja").read_bytes().decode()
        plain = plain_of(marked)
        (OUT / f"{name}.jinja").write_bytes(plain.encode())
        rows = {row_name: row for row_name, row in ROWS.items() if "tool" in plain or row_name not in FOR_TOOLS} | {"inside": inside(family)}
        tokenizer = family.load()
        cases = [make_case(name, tokenizer, plain, marked, row_name, row) for row_name, row in rows.items()]
        write_cases(OUT / f"{name}.json", as_json(family.about()), cases)
        refused = [c["row"] for c in cases if "refused" in c]
        print(f"{name}: {len(cases)} cases, refused: {', '.join(refused) or 'none'}")


main()
