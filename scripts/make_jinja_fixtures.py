r"""fixtures/jinja/constructs.json: what Python's jinja2 makes of the constructs that chat templates are written with.

A list of {"name", "template", "context", "value"} or {"name", "template", "context", "error": {"class", "message"}}. The value is
the text that the template renders in the environment that transformers compiles chat templates in (`_compile_jinja_template`:
sandboxed and immutable, blocks trimmed and stripped, loop controls, {% generation %}, and its own tojson, dict, namespace,
raise_exception and strftime_now). The context is all that the template sees: `tools` is undefined unless the context has it. The
class of an error is Python's; "TemplateError" means that the template called raise_exception, and then the message is the
template's. Any other message is in the words of jinja2 or of CPython 3.11, and other versions may say it otherwise.

A construct of the group "tests" writes one line for each value: the expression, a colon and what it gives. Nothing depends on the
time, on an address or on the order of a set. Each construct was written for this table; none is copied from a model's template.

Run: .venv/bin/python scripts/make_jinja_fixtures.py      (deterministic)
"""
import json
import pathlib

from jinja2.exceptions import TemplateError
from transformers.utils.chat_template_utils import _compile_jinja_template

OUT = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "jinja"

CHAT = {"messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "2+2?"},
                     {"role": "assistant", "content": "<think>\ntwo and two\n</think>\n\n4"}, {"role": "user", "content": "  And 3+3?\n"}]}
PARTS = {"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]},
                      {"role": "assistant", "content": "A cat."}]}
CALLS = {"messages": [{"role": "user", "content": "Weather in Köln?"},
                      {"role": "assistant", "content": None, "tool_calls": [{"id": "a1", "type": "function", "function": {
                          "name": "get_weather", "arguments": {"place": "Köln", "days": 2, "metric": True, "from": None}}}]},
                      {"role": "tool", "content": "rain", "tool_call_id": "a1", "name": "get_weather"}],
         "tools": [{"type": "function", "function": {
             "name": "get_weather", "description": "Tells the \"weather\" of a place.\nDaily.",
             "parameters": {"type": "object", "required": ["place"], "properties": {
                 "place": {"type": "string", "description": "The <place>"}, "days": {"type": ["integer", "null"], "default": 1},
                 "items": {"type": "array", "items": {"type": "string", "enum": ["a", "b"]}}}}}}]}
PEOPLE = {"people": [{"name": "Ann", "age": 30, "at": {"city": "Ulm"}}, {"name": "bob", "age": 25, "at": {"city": "Bonn"}},
                     {"name": "Cid", "age": 30, "at": {"city": "Ulm"}}, {"name": "dot", "age": None, "at": {}}]}
TREE = {"tree": [{"name": "a", "children": [{"name": "b", "children": [{"name": "c"}]}, {"name": "d"}]}, {"name": "e", "children": []}]}

TESTS = ["iterable", "sequence", "mapping", "string", "none", "defined", "undefined", "number", "integer", "float", "boolean", "true", "false",
         "callable", "lower", "upper", "escaped", "sameas none", "sameas true", "sameas 1", "eq 1", "eq 'ab'", "ne 0", "in [1, 'ab', none]"]
PLAIN_VALUES = ["none", "true", "false", "0", "1", "-2.0", "''", "'ab'", "'AB'", "[]", "[1]", "(1,)", "{}", "{'a': 1}", "missing"]
SPECIAL_VALUES = {"a range": "range(2)", "a slice": "[1, 2, 3][1:]", "a sum of lists": "[1] + [2]", "a product of a list": "[1] * 2",
                  "the items of a dict": "{'a': 1}.items()", "the keys of a dict": "{'a': 1}.keys()", "a filter's result": "['a'] | map('upper')",
                  "a reversed list": "[1, 2] | reverse", "a namespace": "namespace(a=1)", "an escaped string": "'a' | escape",
                  "a dict of a call": "dict(a=1)", "a function": "range", "a split string": "'a b'.split()", "a method": "'a'.upper"}
KINDS = ["iterable", "sequence", "mapping", "string", "defined", "number", "callable", "escaped"]
NUMBER_TESTS = ["odd", "even", "divisibleby(3)", "divisibleby 2", "lt 2", "le 2", "gt 2", "ge 2", "lessthan(3)", "greaterthan(3)", "equalto 2.0", "ne 2"]


def about(values, tests):
    return "\n".join(f"{value} is {test}: {{{{ ({value}) is {test} }}}}" for value in values for test in tests)


# group: {name: template or (template, context)}
GROUPS = {
    "line ends": {
        "CRLF in text": "a\r\nb\r\nc",
        "CRLF after a block": "{% if true %}\r\nx\r\n{% endif %}\r\ny",
        "CRLF after a variable": "{{ 1 }}\r\n{{ 2 }}\r\n",
        "CRLF after a comment": "{# c #}\r\nx",
        "CRLF before a stripped block": "a\r\n   {% if true %}\r\n  b\r\n   {% endif %}\r\nc",
        "CRLF and minus": "a \r\n {%- if true -%} \r\n b \r\n {%- endif -%} \r\n c",
        "CRLF in a string": "{{ 'a\r\nb' | length }}|{{ 'a\r\nb' }}",
        "CRLF in a raw block": "{% raw %}\r\na\r\n{% endraw %}\r\nb",
        "CRLF at the end": "a\r\n",
        "two CRLF at the end": "a\r\n\r\n",
        "CR alone in text": "a\rb\r{% if true %}\rc{% endif %}\rd",
        "CR at the end": "a\r",
        "CRLF in the context is kept": ("{{ text }}|{{ text | length }}", {"text": "a\r\nb\r"}),
        "CRLF by escapes is kept": r"{{ 'a\r\nb' }}",
        "LF at the end": "a\n",
        "two LF at the end": "a\n\n",
        "only LF": "\n",
        "only two LF": "\n\n",
        "nothing": "",
    },
    "whitespace": {
        "trimmed blocks": "a\n{% if true %}\n  b\n{% endif %}\nc\n",
        "stripped blocks": "a\n   {% if true %}\n  b\n\t {% endif %}\nc",
        "variables are not stripped": "a\n   {{ 1 }}\n   {{ 2 }}\nb",
        "only one line break is trimmed": "{% if true %}\n\n\nx{% endif %}\n\ny",
        "text before a block on its line": "a {% if true %} b {% endif %} c",
        "space after a block on its line": "{% if true %} \nx{% endif %}  \ny",
        "minus left": "a \n\n {%- if true %} b {%- endif %} c",
        "minus right": "a {% if true -%} \n\n b {% endif -%} \n c",
        "minus at variables": "a \n {{- 1 -}} \n b",
        "minus at a comment": "a \n {#- c -#} \n b",
        "minus left only at variables": " a {{- 1 }} b",
        "plus left keeps the indent": "a\n   {%+ if true %}b{% endif %}",
        "plus right keeps the line break": "{% if true +%}\nb{% endif +%}\nc",
        "plus at a comment": "a\n  {#+ c +#}\nb",
        "plus left at a variable": "a {{+ 1 }}",
        "plus right at a variable": "a {{ 1 +}}",
        "minus as an operator": "{{ 2 -1 }} {{ 2-1 }} {{-1}} {{ -1 -}} x",
        "comment on its line": "a\n  {# c #}\nb",
        "comment within a line": "a {# c #} b {##} c",
        "comment over lines": "a\n{# c\n {{ x }} {% if %}\n d #}\nb",
        "comment with marks": "{# a # } b { # -#}\n c",
        "blocks in a row on an indented line": "x\n  {% if true %}{% if true %}a{% endif %}{% endif %}\ny",
        "block after a block with a space": "{% if true %}  {% if true %}a{% endif %}  {% endif %}b",
        "tabs and form feeds are stripped": "a\n\t\f {% if true %}b{% endif %}",
        "no-break space before a block": "a\n\u00a0{% if true %}b{% endif %}",
        "no-break space at a minus": "a\u00a0\u2003{%- if true -%}\u00a0b{% endif %}",
        "indent at the start": "   {% if true %}b{% endif %}",
        "indent of an else": "{% if false %}\n  a\n  {% else %}\n  b\n  {% endif %}\n",
        "nested blocks": "{% for i in [1, 2] %}\n  {% if i == 1 %}\n    one\n  {% else %}\n    more\n  {% endif %}\n{% endfor %}\nend",
        "set on its line": "a\n  {% set x = 1 %}\n  {{ x }}\nb",
        "minus set leaves nothing": "{%- set x = 1 -%}\n\n{%- set y = 2 -%}\n{{ x }}{{ y }}",
        "set block keeps its spaces": "{% set x %}\n  a \n{% endset %}\n[{{ x }}]",
        "macro keeps its spaces": "{% macro f() %}\n  a\n{% endmacro %}\n[{{ f() }}]",
        "tags without spaces": "{%if true%}a{%endif%}{{1}}{%-if true-%} b {%-endif-%} c",
        "tags over lines": "{%\n  if\n  true\n%}a{%\nendif\n%}b{{\n1\n}}",
        "minus at a loop": "{%- for i in [1, 2] -%} {{ i }} {%- endfor -%}",
        "braces in text": "{ a } {a} }} %} #} {{ '{' }}{{ '}}' }}",
        "string with an end of tag": "{{ '%}' }}{{ '}}' }}{% if '%}' %}x{% endif %}",
        "dict next to the end of tag": "{{ {'a': {'b': 1}} }}{{ {'a': {}}}}",
    },
    "raw": {
        "tags are text": "{% raw %}{{ x }} {% if %} {# c #}{% endraw %}",
        "line breaks around": "a\n{% raw %}\nx\n{% endraw %}\nb",
        "indented": "a\n  {% raw %}\n  x\n  {% endraw %}\nb",
        "minus inside": "a {% raw -%}  x  {%- endraw %} b",
        "minus outside": "a {%- raw %}  x  {% endraw -%} b",
        "plus at the end": "{% raw %}x{% endraw +%}\ny",
        "without spaces": "{%raw%}{{ x }}{%endraw%}",
        "unfinished": "{% raw %}x",
    },
    "strings": {
        "both quotes": """{{ 'a"b' }}{{ "a'b" }}""",
        "escaped quotes": r"""{{ 'a\'b' }}{{ "a\"b" }}""",
        "escapes": r"{{ 'a\nb\tc\\d\re' }}",
        "hexadecimal escapes": r"{{ '\x41\u00e9\u20ac' }}",
        "escape of eight digits": r"{{ '\U0001F600' }}",
        "named escape": r"{{ '\N{BULLET}' }}",
        "bell and vertical tab": r"{{ '\a\v' | tojson }}",
        "form feed and backspace": r"{{ '\f\b' | tojson }}",
        "octal escapes": r"{{ '\101\60\0' | tojson }}",
        "octal escape above a byte": r"{{ '\777' | tojson }}",
        "escaped slash": r"{{ '\/' }}",
        "unknown escapes stay": r"{{ '\d\s\w\%\{' }}",
        "surrogate escapes are two characters": r"{{ '\ud83d\ude00' | length }}",
        "escaped line break": "{{ 'a\\\nb' }}",
        "line break inside": "{{ 'a\nb' }}",
        "next to each other": "{{ 'a' \"b\" 'c' }}",
        "non-ASCII with an escape": r"{{ 'é\n你\\👍' }}",
        "bad hexadecimal escape": r"{{ '\x4' }}",
        "unfinished": "{{ 'a }}",
        "length of emoji": "{{ '👍' | length }}{{ '👍🏽' | length }}{{ 'é' | length }}{{ 'e\u0301' | length }}",
        "emoji by index": "{{ '👍a你'[0] }}{{ '👍a你'[-1] }}{{ '👍a你'[1:] }}{{ '👍a你'[::-1] }}",
        "characters in a loop": "{% for c in 'a👍' %}{{ loop.index }}{{ c }}{% endfor %}",
        "multiplied": "{{ 'ab' * 3 }}|{{ 2 * 'c' }}|{{ 'x' * 0 }}|{{ 'x' * -1 }}|{{ 'x' * true }}",
        "multiplied by a float": "{{ 'ab' * 2.0 }}",
        "added": "{{ 'a' + 'b' + \"c\" }}",
        "added to a number": "{{ 'a' + 1 }}",
        "number added to it": "{{ 1 + 'a' }}",
        "added to none": ("{{ 'a' + message.content }}", {"message": {"content": None}}),
        "compared": "{{ 'a' < 'b' }} {{ 'B' < 'a' }} {{ 'a' == 'A' }} {{ 'é' > 'z' }} {{ 'ab' >= 'a' }}",
    },
    "literals": {
        "numbers": "{{ 0 }} {{ 42 }} {{ 1_000 }} {{ 0x1F }} {{ 0b101 }} {{ 0o17 }} {{ 00 }}",
        "floats": "{{ 1.0 }} {{ 1.5e3 }} {{ 1e3 }} {{ 2.5E-3 }} {{ 1_0.5 }}",
        "number with a leading zero": "{{ 010 }}",
        "float without digits after the point": "{{ 1. }}",
        "float without digits before the point": "{{ .5 }}",
        "truth values": "{{ true }} {{ True }} {{ false }} {{ False }} {{ none }} {{ None }}",
        "capital truth values are names": "[{{ TRUE }}{{ NONE }}{{ null }}{{ nil }}]",
        "lists": "{{ [] }} {{ [1, 'a', none, true, 1.5] }} {{ [1, 2,] }} {{ [[1], [[2]]] }}",
        "tuples": "{{ () }} {{ (1,) }} {{ (1, 'a') }} {{ 1, 2 }} {{ (1) }}",
        "dicts": "{{ {} }} {{ {'a': 1, 'b': [none]} }} {{ {1: 2, true: 3, none: 4, 1.5: 5} }} {{ {'a': 1,} }}",
        "keys given twice": "{{ {'a': 1, 'b': 2, 'a': 3} }}",
        "key that is a list": "{{ {[1]: 2} }}",
        "key that is a tuple": "{{ {(1, 2): 3} }}{{ {(1, 2): 3}[(1, 2)] }}",
        "key by an expression": "{% set k = 'x' %}{{ {k: 1, k ~ 'y': 2} }}",
        "names outside ASCII": "{% set é = 1 %}{{ é }}",
        "names with underscores": "{% set _a1 = 1 %}{{ _a1 }}",
        "name that begins with a digit": "{{ 1a }}",
    },
    "printing": {
        "numbers": "{{ 1 }} {{ -1 }} {{ 1.0 }} {{ -0.5 }} {{ 100000.0 }} {{ 0.1 + 0.2 }} {{ 1 / 3 }}",
        "large float": "{{ 1e16 }} {{ 1e22 }} {{ 123456789012345678.0 }} {{ 1e15 }} {{ 1.5e300 }}",
        "small float": "{{ 1e-5 }} {{ 0.0001 }} {{ 1.5e-7 }}",
        "zeros": "{{ 0.0 }} {{ -0.0 }} {{ 0 * -1.0 }}",
        "infinity and not a number": "{{ 1e308 * 10 }} {{ -1e308 * 10 }} {{ 'nan' | float }}",
        "floats in a list": "{{ [1.0, 1e16, 1e-5, 1e22, 0.0001, 1e15] }}",
        "infinity in a list": "{{ [1e308 * 10, 'nan' | float] }}",
        "floats joined": "{{ 1e16 ~ '|' ~ 1e-5 ~ '|' ~ 1.0 }} {{ [1e16, 1e-5] | join(',') }} {{ 1e16 | string }}",
        "large integers":
            "{{ 9223372036854775807 }} {{ 9223372036854775808 }} {{ 18446744073709551616 }} {{ 170141183460469231731687303715884105728 }}",
        "integer of 41 digits": "{{ 12345678901234567890123456789012345678901 }}",
        "integer product of 41 digits": "{{ 100000000000000000000 * 100000000000000000000 }}",
        "power of 200": "{{ 2 ** 200 }}",
        "power of 126": "{{ 2 ** 126 }} {{ -(2 ** 126) }} {{ 10 ** 30 }}",
        "integers from the context": ("{{ a }} {{ b }} {{ c }}", {"a": -9223372036854775808, "b": 9223372036854775807, "c": 18446744073709551615}),
        "integer of 23 digits from the context": ("{{ a }}", {"a": 12345678901234567890123}),
        "floats from the context": ("{{ a }} {{ b }} {{ c }} {{ d }}", {"a": 1.0, "b": 0.1, "c": 2.5e-8, "d": 1e21}),
        "none and truth values": "{{ none }} {{ true }} {{ false }} {{ [none, true] }}",
        "strings in a list": r"""{{ ['a', "it's", 'say "x"', 'both \' and "', 'back\\slash', 'line\nbreak\ttab', ''] }}""",
        "unicode in a list": "{{ ['é', '你', '👍', 'e\u0301'] }}",
        "control characters in a list": r"{{ ['\x00\x1b\x7f\x85'] }}",
        "invisible characters in a list": r"{{ ['\u00a0', '\u00ad', '\u200b', '\u2028', '\ufeff', '\u3000'] }}",
        "private and unassigned characters in a list": r"{{ ['\ue000', '\uffff', '\u0378'] }}",
        "nested": "{{ {'a': [1, {'b': ('x', none)}], 'c': {}} }}",
        "undefined in a list": "{{ [missing, 1] }}",
        "markup in a list": "{{ ['a' | safe, '<' | escape] }}",
        "from the context": ("{{ messages }}", CALLS),
        "range": "{{ range(3) }} {{ range(1, 4) }} {{ range(0, 9, 2) }}",
        "views of a dict": "{{ {'a': 1}.keys() }} {{ {'a': 1}.values() }} {{ {'a': 1}.items() }}",
        "slice of a list": "{{ [1, 2, 3][1:] }} {{ [1, 2, 3][::-1] }} {{ (1, 2, 3)[1:] }}",
        "lists added": "{{ [1] + ['a'] }} {{ [1] * 2 }} {{ (1,) + (2,) }} {{ (1,) * 2 }}",
        "namespace": "{{ namespace(b=1, a='x') }}",
        "macro": "{% macro f() %}{% endmacro %}{{ f }}",
        "loop": "{% for i in [1, 2] %}{{ loop }}{% endfor %}",
        "tilde": "{{ 'a' ~ 1 ~ none ~ true ~ 1.5 ~ [1, 'b'] ~ {'c': 2} ~ missing ~ (1, 2) }}",
        "tilde of numbers": "{{ 1 ~ 2 }} {{ 1.0 ~ -2 }} {{ true ~ false }}",
    },
    "undefined": {
        "printed": "[{{ missing }}]",
        "attribute": "{{ missing.a }}",
        "item": "{{ missing['a'] }}",
        "attribute of an attribute": ("{{ message.a.b }}", {"message": {}}),
        "missing key": ("[{{ message.a }}{{ message['a'] }}]", {"message": {}}),
        "call": "{{ missing() }}",
        "method": "{{ missing.strip() }}",
        "added": "{{ missing + 'a' }}",
        "added to a string": "{{ 'a' + missing }}",
        "negated": "{{ -missing }}",
        "compared with less": "{{ missing < 1 }}",
        "compared with equals": "{{ missing == none }} {{ missing == '' }} {{ missing == other }} {{ missing != 1 }}",
        "truth": "{{ not missing }} {{ missing or 'x' }} [{{ missing and 'x' }}] {% if missing %}a{% else %}b{% endif %}",
        "loop": "[{% for x in missing %}a{% endfor %}]{% for x in missing %}a{% else %}b{% endfor %}",
        "membership": "{{ 'a' in missing }} {{ 'a' not in missing }}",
        "member of a list": "{{ missing in ['a'] }} {{ missing in [other] }}",
        "member of a string": "{{ missing in 'abc' }}",
        "slice": "{{ missing[1:] }}",
        "filters that take it":
            "[{{ missing | upper }}{{ missing | trim }}{{ missing | string }}{{ missing | join(',') }}{{ missing | first }}"
            "] {{ missing | length }} {{ missing | list }}",
        "int filter": "{{ missing | int }}",
        "tojson": "{{ missing | tojson }}",
        "tojson inside": "{{ {'a': missing} | tojson }}",
        "default":
            "{{ missing | default('x') }} {{ missing | d('y') }} [{{ missing | default }}] {{ none | default('x') }}"
            " {{ '' | default('x', true) }}",
        "default by keyword": "{{ '' | default('x', boolean=true) }} {{ missing | default(default_value='y') }}",
        "default of an attribute": ("{{ message.a | default('x') }}", {"message": {}}),
        "default of an attribute of an attribute": ("{{ message.a.b | default('x') }}", {"message": {}}),
        "attribute of none": "[{{ none.a }}{{ none['a'] }}{{ none[0] }}]",
        "attribute of an attribute of none": "{{ none.a.b }}",
        "attribute of a number": "[{{ (5).a }}{{ 5['a'] }}{{ true.a }}]",
        "attribute of a string": "[{{ 'abc'.foo }}{{ 'abc'['foo'] }}]",
        "unknown method": "{{ 'abc'.foo() }}",
        "unknown function": "{{ foo(1) }}",
        "functions of Python": "{{ len('abc') }}",
        "str of Python": "{{ str(1) }}",
        "list of Python": "{{ list('ab') }}",
        "defined": (
            "{{ message.a is defined }} {{ message.b is defined }} {{ message is defined }} {{ missing is not defined }}", {"message": {"a": None}}),
        "defined of an attribute of undefined": "{{ missing.a is defined }}",
        "format with percent": "[{{ '%s' % missing }}]",
        "set to it": "{% set x = missing %}[{{ x }}]{{ x is defined }}",
        "attribute of it that is set": "{% set x = missing %}{{ x.a }}",
    },
    "inline if": {
        "true": "{{ 'a' if true else 'b' }}",
        "false": "{{ 'a' if 0 else 'b' }}",
        "without else": "[{{ 'a' if false }}]",
        "without else is undefined": "{{ ('a' if false) is defined }}",
        "without else in a tilde": "{{ ('a' if false) ~ 'b' }}",
        "without else in a sum": "{{ ('a' if false) + 'b' }}",
        "attribute without else": "{{ ('a' if false).x }}",
        "nested": "{{ 'a' if false else 'b' if true else 'c' }}",
        "with filters": "{{ 'a' | upper if true else 'b' | upper }}",
        "in an argument": "{{ 'x'.replace('x', 'y' if true else 'z') }}",
        "in a set": "{% set x = 'a' if missing is defined else 'b' %}{{ x }}",
        "in a list": "{{ [1 if true else 2, 3 if false else 4] }}",
        "other branch is not evaluated": "{{ 'a' if true else missing.b.c }}",
        "with not": "{{ 'a' if not false and true else 'b' }}",
        "before a tilde": "{{ 'a' if true else 'b' ~ 'c' }}{{ ('a' if true else 'b') ~ 'c' }}",
    },
    "operators": {
        "division": "{{ 7 / 2 }} {{ 4 / 2 }} {{ 1 / 3 }} {{ -7 / 2 }} {{ 1e3 / 10 }}",
        "division by zero": "{{ 1 / 0 }}",
        "floor division": "{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 // -2 }} {{ -7 // -2 }} {{ 7.5 // 2 }} {{ -7.5 // 2 }} {{ 0 // 5 }}",
        "floor division by zero": "{{ 1 // 0 }}",
        "remainder": "{{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ -7 % -3 }} {{ 7.5 % 2 }} {{ -7.5 % 2 }} {{ 6 % 3 }} {{ 1 % 0.1 }}",
        "remainder by zero": "{{ 1 % 0 }}",
        "power": "{{ 2 ** 10 }} {{ 2 ** -1 }} {{ 2.0 ** 3 }} {{ 9 ** 0.5 }} {{ 0 ** 0 }} {{ (-2) ** 3 }}",
        "power and sign": "{{ -2 ** 2 }} {{ 2 ** 3 ** 2 }}",
        "power of a negative number to a fraction": "{{ (-8) ** 0.5 }}",
        "product and sum": "{{ 2 + 3 * 4 }} {{ (2 + 3) * 4 }} {{ 2 - 3 - 4 }} {{ 2 * 3 % 4 }} {{ 1 + 2.0 }} {{ 3 * 1.5 }}",
        "tilde and product": "{{ 'a' ~ 1 * 2 }} {{ 2 * 3 ~ 'a' }} {{ 1 ~ (2 + 3) }} {{ 'a' + 'b' ~ 1 + 'c' }}",
        "tilde before a sum": "{{ 1 ~ 2 + 3 }}",
        "sign": "{{ -3 }} {{ --3 }} {{ +3 }} {{ - (1 + 2) }} {{ -true }}",
        "truth values as numbers": "{{ true + 1 }} {{ true * 3 }} {{ false - 1 }} {{ true / 2 }} {{ true + true }}",
        "mixed list and tuple": "{{ [1] + (2,) }}",
        "list and string": "{{ [1] + 'a' }}",
        "dicts added": "{{ {'a': 1} + {'b': 2} }}",
        "none and number": "{{ none + 1 }}",
        "subtracted strings": "{{ 'a' - 'b' }}",
        "equality":
            "{{ 1 == 1.0 }} {{ true == 1 }} {{ '1' == 1 }} {{ none == false }} {{ [] == () }} {{ [1, 2] == [1, 2] }} {{ {'a': 1} == {'a': 1.0} }}",
        "inequality": "{{ 1 != 2 }} {{ 'a' != 'a' }} {{ none != none }} {{ [1] != [1.0] }}",
        "equality of range and list": "{{ range(2) == [0, 1] }} {{ range(2) == range(2) }}",
        "equality of slice and list": "{{ [1, 2, 3][1:] == [2, 3] }} {{ 'abc'[1:] == 'bc' }}",
        "order": "{{ 1 < 2 }} {{ 2 <= 2.0 }} {{ 'a' > 'B' }} {{ [1, 2] < [1, 3] }} {{ (1,) < (1, 0) }} {{ true < 2 }}",
        "order of number and string": "{{ 1 < 'a' }}",
        "order of none and number": "{{ none < 1 }}",
        "order of dicts": "{{ {} < {'a': 1} }}",
        "order of list and tuple": "{{ [1] < (2,) }}",
        "chained": "{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1 == 1.0 }} {{ 3 > 2 != 1 }}",
        "and": "{{ 1 and 2 }} {{ 0 and 2 }} {{ '' and 1 }}| {{ [] and 1 }} {{ none and missing.a }}",
        "or": "{{ 1 or 2 }} {{ 0 or 2 }} {{ '' or none or 'x' }} {{ none or 0 }} {{ 'a' or missing.b.c }}",
        "not": "{{ not 1 }} {{ not '' }} {{ not not 'a' }} {{ not none }} {{ not [] }} {{ not 1 == 2 }} {{ not 'a' in 'b' }}",
        "and before or": "{{ true or true and false }} {{ (true or true) and false }} {{ not true or true }}",
        "truth": "{% for x in [0, 0.0, '', '0', [], [0], {}, {'a': 0}, none, true, (), range(0)] %}{{ 'T' if x else 'F' }}{% endfor %}",
        "truth of a filter's result": "{% if [] | map('upper') %}T{% else %}F{% endif %}{% if [1] | select('string') %}T{% else %}F{% endif %}",
        "truth of a filter's list": "{% if [1] | select('string') | list %}T{% else %}F{% endif %}",
        "truth of others":
            "{{ 'T' if namespace() else 'F' }}{{ 'T' if {}.items() else 'F' }}{{ 'T' if range else 'F' }}{{ 'T' if [1][1:] else 'F' }}",
        "in":
            "{{ 1 in [1, 2] }} {{ 'a' in 'cat' }} {{ '' in 'a' }} {{ 'a' in {'a': 1} }} {{ 1 in {'a': 1} }} {{ 2 in range(3) }}"
            " {{ 'a' in ('a',) }} {{ none in [none] }}",
        "not in": "{{ 1 not in [1, 2] }} {{ 'x' not in 'cat' }} {{ 'b' not in {'a': 1} }}",
        "in with equal numbers": "{{ 1 in [1.0] }} {{ 1 in [true] }} {{ '1' in [1] }} {{ 1.0 in {1: 2} }}",
        "number in a string": "{{ 1 in 'a1' }}",
        "none in a string": "{{ none in 'None' }}",
        "in none": "{{ 'a' in none }}",
        "in a number": "{{ 1 in 1 }}",
        "list in a dict": "{{ [1] in {'a': 1} }}",
        "in the views of a dict": "{{ 'a' in {'a': 1}.keys() }} {{ 1 in {'a': 1}.values() }} {{ ('a', 1) in {'a': 1}.items() }}",
        "in a list of dicts": "{{ {'a': 1} in [{'a': 1}] }} {{ [1] in [[1]] }}",
        "not in with and": "{{ 'a' not in 'b' and 'c' in 'cd' or false }}",
        "filter before operators": "{{ -1 | abs }} {{ 1 + -2 | abs }} {{ 'a' ~ 'b' | upper }} {{ 2 * '3' | int }} {{ (1 - 3) | abs }}",
        "test before operators": "{{ 1 is defined and 2 is defined }} {{ not missing is defined }} {{ 1 + 1 is number }} {{ 'a' is string == true }}",
    },
    "items": {
        "of a list": "{{ [1, 2, 3][0] }} {{ [1, 2, 3][-1] }} {{ [[1, [2]]][0][1][0] }} {{ [5].0 }}",
        "of a list out of range": "[{{ [1][1] }}{{ [1][-2] }}{{ [][0] }}]",
        "attribute of an item out of range": "{{ [1][1].a }}",
        "of a string": "{{ 'abc'[0] }} {{ 'abc'[-1] }} [{{ 'abc'[3] }}{{ 'abc'[-4] }}]",
        "of a dict":
            "{{ {'a': 1}['a'] }} {{ {'a': 1}.a }} {{ {1: 'x'}[1] }} {{ {1: 'x'}[1.0] }} {{ {1: 'x'}[true] }} [{{ {'1': 'x'}[1] }}"
            "{{ {1: 'x'}['1'] }}]",
        "of a tuple": "{{ (1, 2)[1] }} {{ (1, 2)[-1] }}",
        "of a range": "{{ range(5)[1] }} {{ range(5)[-1] }} [{{ range(5)[9] }}]",
        "of a list by a truth value": "{{ ['a', 'b'][true] }}",
        "of a list by a float": "[{{ ['a', 'b'][1.0] }}]",
        "of a list by a string": "[{{ ['a', 'b']['0'] }}{{ ['a'].length }}]",
        "of a filter's result": "[{{ (['a'] | map('upper'))[0] }}]",
        "of the views of a dict": "[{{ {'a': 1}.items()[0] }}{{ {'a': 1}.keys()[0] }}]",
        "by an expression": "{% set k = 'a' %}{{ {'a': [1, 2]}[k][1 - 2] }}",
        "by an attribute and a bracket": ("{{ a.b['c'].d[0] }}", {"a": {"b": {"c": {"d": [7]}}}}),
        "by two keys": "[{{ {'a': 1}['a', 'b'] }}]",
        "key with spaces": "{{ {'a b': 1}['a b'] }}",
        "key that is a method's name": ("{{ d['items'] }} {{ d['keys'] }} {{ d['get'] }}", {"d": {"items": 1, "keys": 2, "get": 3}}),
        "method whose name is a key": ("{{ d.items() | list }} {{ d.get('items') }} {{ d.keys() | list }}", {"d": {"items": 1, "keys": 2, "get": 3}}),
        "attribute that is a method's name": ("{{ d.items is callable }} {{ d.items == 1 }} {{ d.items is string }}", {"d": {"items": "x"}}),
        "loop over an attribute that is a method's name": ("{% for x in d.items %}{{ x }}{% endfor %}", {"d": {"items": [1, 2]}}),
        "item of an attribute that is a method's name": ("[{{ d.items.type }}]", {"d": {"items": {"type": "string"}}}),
        "values and update as keys": ("[{{ d.values is string }}{{ d['values'] }}]", {"d": {"values": "v", "update": "u"}}),
    },
    "slices": {
        "of a list":
            "{{ [1, 2, 3, 4][1:] }} {{ [1, 2, 3, 4][:2] }} {{ [1, 2, 3, 4][1:3] }} {{ [1, 2, 3, 4][:] }} {{ [1, 2, 3, 4][-2:] }}"
            " {{ [1, 2, 3, 4][:-1] }}",
        "with a step":
            "{{ [1, 2, 3, 4][::2] }} {{ [1, 2, 3, 4][1::2] }} {{ [1, 2, 3, 4][::-1] }} {{ [1, 2, 3, 4][::-2] }} {{ [1, 2, 3, 4][2:0:-1] }}"
            " {{ [1, 2, 3, 4][-1:-3:-1] }}",
        "out of range":
            "{{ [1, 2][5:] }} {{ [1, 2][-9:1] }} {{ [1, 2][1:9] }} {{ [1, 2][2:1] }} {{ [][1:] }} {{ [1, 2][9::-1] }} {{ [1, 2][:-9:-1] }}",
        "of a string": "{{ 'abcd'[1:] }} {{ 'abcd'[:-1] }} {{ 'abcd'[::-1] }} {{ 'abcd'[::2] }} {{ 'abcd'[-2:] }} [{{ 'abcd'[9:] }}{{ ''[1:] }}]",
        "of a tuple": "{{ (1, 2, 3)[1:] }} {{ (1, 2, 3)[::-1] }}",
        "of a range": "{{ range(5)[1:3] | list }} {{ range(5)[::-1] | list }}",
        "a range of a range":
            "{{ range(5)[1:3] }} {{ range(10)[::2] }} {{ range(10)[::-3] }} {{ range(2, 20, 3)[1:-1] }} {{ range(5)[7:] }} {{ range(0)[:2] }}"
            " {{ range(3)[:] == range(3) }} {{ range(9)[2:5] | sum }} {{ range(9, 0, -2)[1:3] }}",
        "a range with a step of zero": "{{ range(5)[::0] }}",
        "with none": "{{ [1, 2, 3][none:2] }} {{ [1, 2, 3][1:none] }}",
        "with variables": "{% set n = 1 %}{{ [1, 2, 3][n:n + 1] }} {{ [1, 2, 3][-n:] }}",
        "with a truth value": "{{ [1, 2, 3][true:] }}",
        "with a step of zero": "{{ [1, 2][::0] }}",
        "with a string": "[{{ [1, 2]['a':] }}]",
        "with a float": "[{{ [1, 2, 3][1.0:] }}]",
        "of none": "[{{ none[1:] }}]",
        "of a dict": "[{{ {'a': 1}[1:] }}]",
        "of a number": "[{{ 5[1:] }}]",
        "of a filter's result": "[{{ ([1, 2] | select)[1:] }}]",
        "of a slice": "{{ [1, 2, 3, 4][1:][1:] }} {{ [1, 2, 3, 4][::-1][:2] }} {{ [1, 2, 3, 4][1:][0] }} {{ [1, 2, 3, 4][1:][-1] }}",
        "length": "{{ [1, 2, 3][1:] | length }} {{ 'abc'[1:] | length }}",
        "added to a list": "{{ [0] + [1, 2, 3][1:] }} {{ [1, 2, 3][1:] + [4] }}",
        "methods of a slice": "{{ [1, 2, 2][1:].count(2) }} {{ [1, 2, 3][1:].index(3) }}",
        "loop": "{% for x in [1, 2, 3][1:] %}{{ x }}{{ ',' if not loop.last }}{% endfor %}",
    },
    "split": {
        "by a character": "{{ 'a,b,,c'.split(',') }} {{ ''.split(',') }} {{ ','.split(',') }}",
        "by whitespace": r"{{ ' a  b\t\nc '.split() }} {{ ''.split() }} {{ '  '.split() }}",
        "by a string": "{{ 'a</think>b</think>c'.split('</think>') }} {{ 'abc'.split('abc') }}",
        "with a limit": "{{ 'a,b,c'.split(',', 1) }} {{ 'a,b,c'.split(',', 0) }} {{ 'a,b,c'.split(',', -1) }} {{ 'a b  c '.split(none, 1) }}",
        "with a limit by keyword": "{{ 'a,b,c'.split(',', maxsplit=1) }} {{ 'a b c'.split(maxsplit=1) }}",
        "by keyword": "{{ 'a,b'.split(sep=',') }}",
        "by the empty string": "{{ 'abc'.split('') }}",
        "by none": "{{ 'a b'.split(none) }}",
        "by a number": "{{ 'a1b'.split(1) }}",
        "item of the result": "{{ 'a|b|c'.split('|')[-1] }} {{ 'a|b|c'.split('|')[0] }} [{{ 'a'.split('|')[1] }}]",
        "loop over the result": "{% for x in 'a b'.split() %}{{ loop.index }}/{{ loop.length }}{{ x }}{% endfor %}",
        "length of the result": "{{ 'a,b'.split(',') | length }}",
        "from the right": "{{ 'a,b,c'.rsplit(',', 1) }} {{ 'a,b,c'.rsplit(',') }} {{ 'a b c'.rsplit(none, 1) }} {{ ' a b '.rsplit() }}",
        "from the right by keyword": "{{ 'a,b,c'.rsplit(',', maxsplit=1) }}",
        "partition": "{{ 'a=b=c'.partition('=') }} {{ 'abc'.partition('=') }} {{ 'a=b=c'.rpartition('=') }} {{ 'abc'.rpartition('=') }}",
        "item of a partition": "{{ 'k: v'.partition(': ')[2] }}",
        "unpacked partition": "{% set k, _, v = 'k=v'.partition('=') %}{{ k }}{{ v }}",
        "lines": r"{{ 'a\nb\r\nc\n'.splitlines() }} {{ ''.splitlines() }} {{ '\n'.splitlines() }} {{ 'a\n\nb'.splitlines() }}",
        "lines with their ends": r"{{ 'a\nb\r\n'.splitlines(true) }} {{ 'a\nb'.splitlines(keepends=true) }}",
        "lines by other ends": r"{{ 'a\rb\x0bc\x0cd\x1ce\u0085f\u2028g'.splitlines() }}",
        "unicode whitespace": r"{{ 'a\u00a0b\u2003c\x1fd'.split() }}",
    },
    "strip": {
        "whitespace": r"[{{ ' a b \n\t'.strip() }}][{{ ' a '.lstrip() }}][{{ ' a '.rstrip() }}]",
        "characters": "[{{ 'xxaxx'.strip('x') }}][{{ 'xyaxy'.lstrip('yx') }}][{{ 'xyaxy'.rstrip('xy') }}][{{ 'abc'.strip('') }}]",
        "line breaks": r"[{{ '\n\n a\n'.lstrip('\n') }}][{{ 'a \n\n'.rstrip('\n') }}][{{ '\n a \n'.strip('\n') }}]",
        "none": "[{{ ' a '.strip(none) }}]",
        "unicode whitespace": r"[{{ '\u00a0\u2003\u3000a\u2028'.strip() }}]",
        "separators of ASCII": r"[{{ '\x1c\x1fa\x1d'.strip() | length }}]",
        "zero-width space stays": r"{{ '\u200ba\ufeff'.strip() | length }}",
        "a number": "{{ 'a1'.strip(1) }}",
        "prefix": "{{ 'abab'.removeprefix('ab') }} {{ 'abab'.removeprefix('b') }} [{{ 'ab'.removeprefix('ab') }}]",
        "suffix": "{{ 'abab'.removesuffix('ab') }} {{ 'abab'.removesuffix('a') }} {{ 'ab'.removesuffix('') }}",
        "trim filter": r"[{{ ' a \n' | trim }}][{{ 'xax' | trim('x') }}][{{ '--a-' | trim('-') }}][{{ 5 | trim }}][{{ none | trim }}]",
        "trim filter by keyword": "{{ 'xax' | trim(chars='x') }}",
    },
    "string methods": {
        "case": "{{ 'aÉß'.upper() }} {{ 'AÉ'.lower() }} {{ 'hELLO wORLD'.capitalize() }} {{ 'aBc'.swapcase() }} {{ 'Straße'.casefold() }}",
        "title": "{{ 'hello world'.title() }} {{ \"they're here\".title() }} {{ 'a1b c_d-e'.title() }} {{ 'ÉTÉ'.title() }}",
        "title filter": "{{ 'hello world' | title }} {{ \"they're here\" | title }} {{ 'a1b c_d-e (x)' | title }}",
        "capitalize filter": "{{ 'hELLO wORLD' | capitalize }} {{ '' | capitalize }} {{ 'éA' | capitalize }}",
        "begins":
            "{{ 'abc'.startswith('a') }} {{ 'abc'.startswith('b') }} {{ 'abc'.startswith('') }} {{ 'abc'.startswith(('x', 'a')) }}"
            " {{ 'abc'.startswith(()) }}",
        "begins from a place": "{{ 'abc'.startswith('b', 1) }} {{ 'abc'.startswith('a', 1, 2) }}",
        "begins with a list": "{{ 'abc'.startswith(['a']) }}",
        "begins with none": "{{ 'abc'.startswith(none) }}",
        "ends": "{{ 'abc'.endswith('c') }} {{ 'abc'.endswith(('x', 'bc')) }} {{ 'abc'.endswith('b', 0, 2) }}",
        "find":
            "{{ 'abcabc'.find('c') }} {{ 'abc'.find('x') }} {{ 'abcabc'.rfind('c') }} {{ 'é👍a'.find('a') }} {{ 'abc'.find('') }}"
            " {{ 'abc'.rfind('') }}",
        "find from a place": "{{ 'abcabc'.find('c', 3) }} {{ 'abcabc'.find('c', 0, 2) }} {{ 'abcabc'.rfind('a', 0, 3) }}",
        "index": "{{ 'abcabc'.index('c') }} {{ 'abcabc'.rindex('c') }}",
        "index of nothing": "{{ 'abc'.index('x') }}",
        "count": "{{ 'banana'.count('a') }} {{ 'aaa'.count('aa') }} {{ 'abc'.count('') }} {{ 'abc'.count('x') }} {{ 'banana'.count('a', 2) }}",
        "replace":
            "{{ 'aaa'.replace('a', 'b') }} {{ 'aaa'.replace('a', 'b', 2) }} {{ 'aaa'.replace('a', 'b', 0) }} {{ 'abc'.replace('', '-') }}"
            " {{ 'aaa'.replace('a', 'b', -1) }}",
        "replace filter":
            "{{ 'aaa' | replace('a', 'b') }} {{ 'aaa' | replace('a', 'b', 2) }} {{ 'aaa' | replace('a', 'b', count=1) }}"
            " {{ 121 | replace('1', 'x') }} {{ 'a1' | replace(1, 2) }}",
        "replace with one argument": "{{ 'a'.replace('a') }}",
        "replace by none": "{{ 'a'.replace('a', none) }}",
        "join": "{{ ','.join(['a', 'b']) }} {{ ''.join(('a', 'b')) }} {{ '-'.join('abc') }} [{{ ','.join([]) }}] {{ ','.join({'a': 1, 'b': 2}) }}",
        "join of numbers": "{{ ','.join([1, 2]) }}",
        "join of a filter's result": "{{ ', '.join(['a', 'b'] | map('upper')) }}",
        "pad":
            "[{{ 'ab'.center(7) }}][{{ 'ab'.center(5, '*') }}][{{ 'ab'.ljust(5) }}][{{ 'ab'.ljust(5, '.') }}][{{ 'ab'.rjust(5) }}"
            "][{{ 'ab'.rjust(1) }}][{{ '7'.zfill(3) }}][{{ '-7'.zfill(4) }}][{{ 'é'.rjust(3) }}]",
        "tabs": r"[{{ 'a\tb'.expandtabs() }}][{{ 'a\tb'.expandtabs(4) }}]",
        "isdigit":
            "{{ '12'.isdigit() }} {{ ''.isdigit() }} {{ '1.5'.isdigit() }} {{ '-1'.isdigit() }} {{ '²'.isdigit() }} {{ '½'.isdigit() }}"
            " {{ '٣'.isdigit() }}",
        "isnumeric and isdecimal": "{{ '½'.isnumeric() }} {{ '²'.isdecimal() }} {{ '12'.isdecimal() }} {{ '三'.isnumeric() }}",
        "isalpha": "{{ 'ab'.isalpha() }} {{ 'a1'.isalpha() }} {{ ''.isalpha() }} {{ 'é你'.isalpha() }} {{ 'a b'.isalpha() }}",
        "isalnum": "{{ 'a1'.isalnum() }} {{ 'a_1'.isalnum() }} {{ ''.isalnum() }} {{ 'ⅷ½'.isalnum() }} {{ 'e\u0301'.isalnum() }}",
        "isspace": r"{{ ' \n\t'.isspace() }} {{ ''.isspace() }} {{ ' a'.isspace() }} {{ '\u00a0'.isspace() }} {{ '\x1f'.isspace() }}",
        "islower and isupper": "{{ 'ab1'.islower() }} {{ 'aB'.islower() }} {{ '1'.islower() }} {{ 'AB'.isupper() }} {{ ''.isupper() }}",
        "istitle and others": "{{ 'Ab Cd'.istitle() }} {{ 'ab'.isidentifier() }} {{ 'ab'.isascii() }} {{ 'é'.isascii() }} {{ 'ab'.isprintable() }}",
        "of a list": "{{ [1, 2, 1].count(1) }} {{ [1, 2].index(2) }} {{ [1, 2].copy() }} {{ (1, 1).count(1) }} {{ (1, 2).index(2) }}",
        "index of nothing in a list": "{{ [1].index(2) }}",
        "of a number": "{{ (1.0).is_integer() }} {{ (5).bit_length() }}",
        "translate by a table": "{{ 'abc'.translate({97: 'x'}) }}",
        "encode": "{{ 'é'.encode('utf-8') | length }}",
        "chained": r"{{ ' A,b '.strip().lower().split(',')[-1].upper() }}",
        "of a literal in brackets": "{{ ('a' ~ 'b').upper() }}",
        "split filter is unknown": "{{ 'a,b' | split(',') }}",
    },
    "format": {
        "by place": "{{ '{} and {}'.format(1, 'a') }} {{ '{1}{0}'.format('a', 'b') }} {{ '{0}{0}'.format('a') }}",
        "by name": "{{ '{a}-{b}'.format(a=1, b='x') }} {{ '{0}{k}'.format('a', k=2) }}",
        "of none and truth values": "{{ '{} {} {} {}'.format(none, true, 1.0, [1, 'a']) }}",
        "width": "[{{ '{:>5}|{:<5}|{:^5}|{:*^5}'.format('a', 'b', 'c', 'd') }}] [{{ '{:5}|{:5}'.format('a', 1) }}]",
        "width of non-ASCII": "[{{ '{:>4}|{:4}'.format('é', '你') }}]",
        "numbers": "{{ '{:05d} {:.2f} {:5.1f} {:,} {:x} {:b} {:e} {:+d}'.format(42, 3.14159, 2.25, 1234567, 255, 5, 12345.678, 7) }}",
        "percent": "{{ '{:.1%}'.format(0.256) }} {{ '{:%}'.format(0.5) }}",
        "conversion": "{{ '{!r} {!s}'.format('a', 'b') }}",
        "items and attributes": "{{ '{0[a]} {0[b][1]} {k[0]}'.format({'a': 1, 'b': [2, 3]}, k='xy') }}",
        "attribute of a dict": "{{ '{0.a}'.format({'a': 1}) }}",
        "nested width": "[{{ '{:{w}}'.format('a', w=4) }}]",
        "sign before padding": "{{ '{:=+6}'.format(5) }}",
        "braces": "{{ '{{}} {{{}}}'.format(1) }}",
        "too few arguments": "{{ '{} {}'.format(1) }}",
        "missing name": "{{ '{a}'.format(b=1) }}",
        "undefined": "[{{ '{}'.format(missing) }}]",
        "underscored attribute": "{{ '{0.__class__}'.format(1) }}",
        "format_map": "{{ '{a}'.format_map({'a': 1}) }}",
        "percent operator": "{{ '%s' % 'a' }} {{ '%s-%s' % (1, 'b') }} {{ '%d' % 3 }} {{ '%5.2f|%-4s|%04d' % (3.14159, 'a', 7) }} {{ '%%%s' % 1 }}",
        "percent operator by name": "{{ '%(a)s %(b)d' % {'a': 'x', 'b': 2} }}",
        "percent operator with a list": "{{ '%s' % [1, 'a'] }} {{ '%s %r' % (none, 'a') }}",
        "percent operator with too few": "{{ '%s %s' % 'a' }}",
        "percent operator with too many": "{{ 'a' % 'b' }}",
        "filter":
            "{{ '%s-%s' | format(1, 'b') }} {{ '%d %5.2f %x' | format(3, 3.14159, 255) }} {{ '%s %s' | format(none, true) }}"
            " [{{ '%5s|%-5s' | format('a', 'b') }}]",
        "filter by name": "{{ '%(a)s' | format(a=1) }}",
        "filter with repr": "{{ '%r' | format('a') }}",
        "filter of non-ASCII": "[{{ '%4s' | format('é') }}]",
        "filter with too many": "{{ 'a' | format(1) }}",
        "filter of a float": "{{ '%s %d' | format(1e16, 2.9) }}",
    },
    "sequences": {
        "join":
            "{{ ['a', 'b'] | join }} {{ ['a', 1, none, true] | join(', ') }} {{ 'abc' | join('-') }} [{{ [] | join(',') }}"
            "] {{ [1, 2] | join(d=';') }}",
        "join of an attribute": ("{{ people | join(', ', attribute='name') }} {{ people | join(', ', 'name') }}", PEOPLE),
        "join of a dict": "{{ {'a': 1, 'b': 2} | join(',') }}",
        "join of none": "{{ none | join(',') }}",
        "list": "{{ 'abc' | list }} {{ {'a': 1} | list }} {{ (1, 2) | list }} {{ range(3) | list }}",
        "list of none": "{{ none | list }}",
        "list of a number": "{{ 5 | list }}",
        "length":
            "{{ [1, 2] | length }} {{ 'abc' | count }} {{ {'a': 1} | length }} {{ (1,) | length }} {{ range(4) | length }}"
            " {{ {'a': 1}.items() | length }}",
        "length of a number": "{{ 5 | length }}",
        "length of none": "{{ none | length }}",
        "length of a filter's result": "{{ [1, 2] | select('odd') | length }}",
        "first": "{{ [1, 2] | first }} {{ 'ab' | first }} {{ {'k': 1} | first }} [{{ [] | first }}] {{ [3] | select('odd') | first }}",
        "first of a number": "{{ 5 | first }}",
        "last": "{{ [1, 2] | last }} {{ 'ab' | last }} {{ {'k': 1, 'l': 2} | last }} [{{ [] | last }}]",
        "last of a filter's result": "{{ [1, 3] | select('odd') | last }}",
        "attribute of the first": ("{{ (people | first).name }} {{ (people | map(attribute='name') | list)[-1] }}", PEOPLE),
        "sort":
            "{{ [3, 1, 2] | sort }} {{ ['b', 'A', 'c'] | sort }} {{ ['b', 'A', 'c'] | sort(case_sensitive=true) }}"
            " {{ [3, 1] | sort(reverse=true) }} {{ 'cab' | sort }} {{ {'b': 1, 'a': 2} | sort }}",
        "sort by place": "{{ [1, 3, 2] | sort(true) }}",
        "sort by an attribute": (
            "{{ people[:3] | sort(attribute='age') | map(attribute='name') | join(',') }}"
            " {{ people[:3] | sort(attribute='age,name', reverse=true) | map(attribute='name') | join(',') }}"
            " {{ people[:3] | sort(attribute='at.city') | map(attribute='name') | join(',') }}", PEOPLE),
        "sort keeps the order of equals": ("{{ people[:3] | sort(attribute='age', reverse=true) | map(attribute='name') | join(',') }}", PEOPLE),
        "sort of non-ASCII": "{{ ['é', 'f', 'É', 'e', 'Z'] | sort }}",
        "sort of mixed": "{{ [1, 'a'] | sort }}",
        "sort of none": "{{ [1, none] | sort }}",
        "unique":
            "{{ [1, 2, 1, 'a', 'A', 'a'] | unique | list }} {{ ['a', 'A'] | unique(case_sensitive=true) | list }}"
            " {{ [1, 1.0, true] | unique | list }}",
        "unique by an attribute": ("{{ people | unique(attribute='age') | map(attribute='name') | list }}", PEOPLE),
        "reverse":
            "{{ [1, 2] | reverse | list }} {{ 'abc' | reverse }} {{ (1, 2) | reverse | list }} {{ {'a': 1, 'b': 2} | reverse | list }}"
            " {{ range(3) | reverse | list }}",
        "reverse of a filter's result": "{{ [1, 3] | select('odd') | reverse | list }}",
        "batch": "{{ [1, 2, 3] | batch(2) | list }} {{ [1, 2, 3] | batch(2, 'x') | list }} {{ [] | batch(2) | list }}",
        "slice": "{{ [1, 2, 3, 4, 5] | slice(3) | list }} {{ [1, 2, 3, 4, 5] | slice(3, 'x') | list }}",
        "sum":
            "{{ [1, 2, 3] | sum }} {{ [1.5, 2] | sum }} {{ [] | sum }} {{ [1] | sum(start=10) }} {{ [true, 2] | sum }}"
            " {{ [[1], [2]] | sum(start=[]) }}",
        "sum of an attribute": ("{{ people[:3] | sum(attribute='age') }} {{ people[:3] | sum('age', 5) }}", PEOPLE),
        "sum of strings": "{{ ['a', 'b'] | sum(start='') }}",
        "sum of a string and a number": "{{ ['a', 1] | sum }}",
        "minimum and maximum":
            "{{ [3, 1, 2] | min }} {{ [3, 1, 2] | max }} {{ ['b', 'A'] | min }} {{ ['b', 'A'] | max(case_sensitive=true) }} [{{ [] | min }}"
            "{{ [] | max }}] {{ 'hello' | max }}",
        "minimum by an attribute": ("{{ (people[:3] | min(attribute='age')).name }} {{ (people[:3] | max(attribute='age')).name }}", PEOPLE),
        "minimum of mixed": "{{ [1, 'a'] | min }}",
        "items": "{% for k, v in {'a': 1, 'b': 2} | items %}{{ k }}{{ v }}{% endfor %}{{ {'a': 1} | items | list }}{{ missing | items | list }}",
        "items of a list": "{{ [1] | items | list }}",
        "dictsort":
            "{{ {'b': 1, 'A': 2, 'c': 0} | dictsort }} {{ {'b': 1, 'A': 2} | dictsort(by='value') }}"
            " {{ {'b': 1, 'A': 2} | dictsort(case_sensitive=true) }} {{ {'b': 1, 'A': 2} | dictsort(reverse=true) }}",
        "dictsort by place": "{{ {'b': 1, 'A': 2} | dictsort(false, 'value') }}",
        "groupby": (
            "{% for age, group in people[:3] | groupby('age') %}{{ age }}:{{ group | map(attribute='name') | join('+') }};{% endfor %}", PEOPLE),
        "groupby with names": (
            "{% for g in people[:3] | groupby('at.city') %}{{ g.grouper }}={{ g.list | length }};{{ g[0] }}={{ g[1] | length }}{% endfor %}", PEOPLE),
        "groupby with a default": ("{% for g, l in people | groupby('at.city', default='?') %}{{ g }}={{ l | length }};{% endfor %}", PEOPLE),
        "groupby and map": ("{{ people[:3] | groupby('age') | map(attribute='grouper') | join(',') }} {{ people[:3] | groupby('age') | map(attribute='list') | map('length') | join(',') }}", PEOPLE),
        "text filters of numbers": "{{ 1e20 | replace('e', 'x') }} {{ 1.0 | upper }} {{ true | lower }} {{ none | upper }} {{ 12 | trim }} {{ 3 | title }} {{ 1e16 | capitalize }}",
        "text filters of lists": "{{ ['a', 1.0, none] | upper }} {{ {'a': true} | lower }} {{ [1, 'x'] | replace('x', 'y') }} {{ range(3) | upper }} {{ {'a': 1}.items() | upper }}",
        "text filters in map": "{{ [1.0, none, 'a', [1, 'b']] | map('upper') | join(' ') }} {{ [1e20, 'e'] | map('replace', 'e', 'x') | join(' ') }}",
        "text filters of what is undefined": "[{{ nothing | upper }}{{ nothing | trim }}{{ nothing | replace('a', 'b') }}]",
        "groupby printed": "{{ [{'a': 1}, {'a': 2}] | groupby('a') }}",
        "groupby of letters": "{% for g, l in ['b', 'A', 'a'] | map('lower') | list | groupby(0) %}{{ g }}{{ l | length }}{% endfor %}",
        "added to a list in a loop":
            "{% set ns = namespace(x=[]) %}{% for i in range(3) %}{% set ns.x = ns.x + [i] %}{% endfor %}{{ ns.x }} {{ ns.x | length }}"
            " {{ ns.x[-1] }}",
    },
    "map and select": {
        "map by a filter": "{{ ['a', 'b'] | map('upper') | list }} {{ [' a '] | map('trim') | join }} {{ ['1', '2'] | map('int') | sum }}",
        "map with arguments":
            "{{ ['aa'] | map('replace', 'a', 'b') | list }} {{ [none, 1] | map('default', 'x', true) | list }}"
            " {{ [[1, 2]] | map('join', '-') | list }}",
        "map with keywords":
            r"{{ ['a\nb'] | map('indent', width=1) | list }} {{ [1.26] | map('round', precision=1) | list }}"
            r" {{ [[1, 2]] | map('join', d='-') | list }}",
        "map by an attribute": ("{{ people | map(attribute='name') | list }} {{ people | map(attribute='at.city') | list }}", PEOPLE),
        "map by an attribute with a default": (
            "{{ people | map(attribute='at.city', default='?') | list }} {{ people | map(attribute='x', default=0) | list }}", PEOPLE),
        "map by an attribute of undefined": ("{{ people | map(attribute='x.y') | list }}", PEOPLE),
        "map by an index":
            "{{ [[1, 2], [3, 4]] | map(attribute=1) | list }} {{ [[1, 2]] | map(attribute='0') | list }}"
            " {{ [{'a': [5]}] | map(attribute='a.0') | list }}",
        "map to JSON": "{{ [{'a': 'é'}, none] | map('tojson') | join(',') }}",
        "map of nothing": "{{ [] | map('upper') | list }} {{ none | map('upper') | list }}",
        "map by an unknown filter": "{{ ['a'] | map('nothing') | list }}",
        "map without arguments": "{{ ['a'] | map | list }}",
        "map of a dict": "{{ {'a': 1, 'b': 2} | map('upper') | list }}",
        "map of a string": "{{ 'ab' | map('upper') | join('-') }}",
        "select": "{{ [0, 1, '', 'a', none, []] | select | list }} {{ [0, 1, ''] | reject | list }}",
        "select by tests":
            "{{ [1, 2, 3, 4] | select('odd') | list }} {{ [1, 'a', none] | select('string') | list }}"
            " {{ [1, 2, 3] | select('divisibleby', 3) | list }} {{ [1, none] | select('none') | list }}"
            " {{ [1, missing] | select('defined') | list }}",
        "select by comparisons":
            "{{ [1, 2, 3] | select('>', 1) | list }} {{ [1, 2, 3] | select('lessthan', 3) | list }} {{ [1, 2] | select('==', 2) | list }}"
            " {{ ['a', 'b'] | select('ne', 'a') | list }} {{ [1, 2, 3] | select('ge', 2) | list }}",
        "select by membership": "{{ ['a', 'b', 'c'] | select('in', ['a', 'c']) | list }} {{ ['a', 'b'] | reject('in', 'ac') | list }}",
        "select by identity": "{{ [1, none, true] | select('sameas', true) | list }} {{ [none, 0] | reject('sameas', none) | list }}",
        "select by kinds":
            "{{ [1, 'a', [2], {'b': 3}] | select('iterable') | list }} {{ [1, 'a', [2], {'b': 3}] | select('mapping') | list }}"
            " {{ [1, 'a', [2], {'b': 3}] | select('sequence') | list }} {{ [1, 2.5, true] | select('number') | list }}",
        "select by an unknown test": "{{ [1] | select('nothing') | list }}",
        "select with a negated test": "{{ [1] | select('not none') | list }}",
        "selectattr": (
            "{{ people | selectattr('age') | map(attribute='name') | list }} {{ people | rejectattr('age') | map(attribute='name') | list }}", PEOPLE),
        "selectattr by tests": (
            "{{ people | selectattr('age', 'equalto', 30) | map(attribute='name') | list }}"
            " {{ people | selectattr('name', 'in', ['Ann', 'dot']) | map(attribute='age') | list }}"
            " {{ people | rejectattr('age', 'none') | list | length }} {{ people | selectattr('age', 'eq', none) | list | length }}", PEOPLE),
        "selectattr by order": (
            "{{ people[:3] | selectattr('age', '>', 25) | map(attribute='name') | list }}"
            " {{ people[:3] | rejectattr('age', 'le', 25) | list | length }}", PEOPLE),
        "selectattr by a path": (
            "{{ people | selectattr('at.city', 'equalto', 'Ulm') | map(attribute='name') | list }}"
            " {{ people | selectattr('at.city', 'defined') | list | length }}", PEOPLE),
        "selectattr of a missing attribute": (
            "{{ people | selectattr('x') | list }} {{ people | selectattr('x', 'defined') | list }}"
            " {{ people | selectattr('x', 'undefined') | list | length }}", PEOPLE),
        "selectattr by a path through nothing": ("{{ people | selectattr('x.y', 'defined') | list }}", PEOPLE),
        "selectattr in a loop": (
            "{% for p in people | selectattr('age', 'equalto', 30) %}{{ loop.index }}/{{ loop.length }}{{ p.name }}{{ ';' if not loop.last }}"
            "{% endfor %}", PEOPLE),
        "selectattr without an attribute": "{{ [{}] | selectattr | list }}",
        "result is used twice": (
            "{% set old = people | selectattr('age', 'equalto', 30) %}{{ old | map(attribute='name') | join(',') }}"
            "[{{ old | map(attribute='name') | join(',') }}]", PEOPLE),
        "in the result": "{{ 'A' in (['a'] | map('upper')) }} {{ 'b' in (['a'] | map('upper')) }}",
    },
    "values": {
        "int":
            "{{ '42' | int }} {{ ' 42 ' | int }} {{ 3.9 | int }} {{ -3.9 | int }} {{ '-7' | int }} {{ true | int }} {{ '3.9' | int }}"
            " {{ '1_000' | int }}",
        "int of no number": "{{ 'abc' | int }} {{ none | int }} {{ [] | int }} {{ '' | int }} {{ 'x' | int(7) }} {{ 'x' | int(default=8) }}",
        "int by a base": "{{ '1a' | int(base=16) }} {{ '0x1A' | int(0, 16) }} {{ '101' | int(base=2) }} {{ '17' | int(base=8) }}",
        "int of a large number": "{{ '123456789012345678901234567890' | int }} {{ 1e20 | int }}",
        "float": "{{ '1.5' | float }} {{ '2' | float }} {{ 3 | float }} {{ ' 1e3 ' | float }} {{ true | float }}",
        "float of no number": "{{ 'abc' | float }} {{ none | float }} {{ 'x' | float(1.5) }} {{ 'x' | float(default=2.5) }}",
        "float of infinity": "{{ 'inf' | float }} {{ '-Infinity' | float }}",
        "abs": "{{ -5 | abs }} {{ 5 | abs }} {{ -1.5 | abs }} {{ true | abs }}",
        "abs of a string": "{{ 'a' | abs }}",
        "round":
            "{{ 2.5 | round }} {{ 3.5 | round }} {{ 2.675 | round(2) }} {{ 1234.5 | round(-2) }} {{ 42.55 | round(1, 'floor') }}"
            " {{ 42.51 | round(1, 'ceil') }} {{ -1.5 | round }} {{ 0.5 | round(0, 'ceil') }}",
        "round of an integer": "{{ 7 | round }} {{ 1234 | round(-2) }} {{ 7 | round(1) }}",
        "round up of an integer": "{{ 7 | round(1, 'ceil') }} {{ 7 | round(0, 'floor') }}",
        "round then int": "{{ 2.7 | round | int }} {{ 1.256 | round(precision=1) }} {{ 1.25 | round(1, method='ceil') }}",
        "round by an unknown method": "{{ 1.5 | round(1, 'half') }}",
        "string": "{{ 1 | string }} {{ none | string }} {{ [1, 'a'] | string }} {{ 1.0 | string }} {{ true | string }} {{ (5 | string) is string }}",
        "case": "{{ 'aB' | upper }} {{ 'aB' | lower }} {{ 5 | upper }} {{ none | upper }} {{ true | lower }} {{ [1, 'a'] | upper }}",
        "indent":
            r"{{ 'a\nb\n\nc' | indent }}|{{ 'a\nb' | indent(2) }}|{{ 'a\nb' | indent(2, true) }}|{{ 'a\n\nb' | indent(1, blank=true) }}"
            r"|{{ 'a\nb' | indent(width=1, first=true) }}",
        "indent of a line break at the end": r"[{{ 'a\nb\n' | indent(2) }}][{{ 'a\n' | indent(2) }}][{{ '' | indent(2, true) }}]",
        "indent by a string": r"{{ 'a\nb' | indent('> ') }}|{{ 'a\nb' | indent('- ', true) }}",
        "indent of CRLF": r"{{ 'a\r\nb' | indent(1) | tojson }}",
        "wordcount": "{{ 'a b  c-d' | wordcount }} {{ '' | wordcount }} {{ \"it's\" | wordcount }}",
        "truncate":
            "{{ 'hello wonderful world' | truncate(11) }}|{{ 'hello wonderful world' | truncate(11, true) }}|{{ 'hello world' | truncate(10) }}"
            "|{{ 'hello wonderful world' | truncate(11, false, '…', 0) }}|{{ 'hello wonderful world' | truncate(length=9, leeway=0) }}",
        "wordwrap": "{{ 'aaa bbb ccc' | wordwrap(7) | tojson }}",
        "wordwrap of several lines": "{{ 'a bb  ccc\n\n dddd eeeee  \nf' | wordwrap(4) | tojson }}",
        "wordwrap of long words": "{{ 'a bbbbbbbb cc' | wordwrap(3) | tojson }} {{ 'a bbbbbbbb cc' | wordwrap(3, false) | tojson }} {{ 'xxxxxxx' | wordwrap(3) | tojson }}",
        "wordwrap with another break": "{{ 'one two three' | wordwrap(5, wrapstring=' / ') }} {{ '' | wordwrap(5) | tojson }} {{ '   ' | wordwrap(2) | tojson }}",
        "wordwrap of room": "{{ '   a    b   ' | wordwrap(2) | tojson }} {{ 'ab      cd' | wordwrap(3) | tojson }} {{ 'a\tb\tc' | wordwrap(3) | tojson }}",
        "wordwrap of hyphens": "{{ 'well-known up-to-date' | wordwrap(6) | tojson }}",
        "wordwrap of hyphens as letters": "{{ 'well-known up-to-date' | wordwrap(6, break_on_hyphens=false) | tojson }}",
        "wordwrap without a width": "{{ ('word ' * 40) | wordwrap | tojson }}",
        "wordwrap to nothing": "{{ 'a' | wordwrap(0) }}",
        "center": "[{{ 'a' | center(5) }}]",
        "filesizeformat": "{{ 1000 | filesizeformat }} {{ 1234567 | filesizeformat }}",
        "pprint": "{{ {'b': 1, 'a': [1, 'x']} | pprint }}",
        "pprint of plain values": "{{ 'a' | pprint }} {{ 1.5 | pprint }} {{ none | pprint }} {{ (1,) | pprint }} {{ [{'b': {'d': 1, 'c': 2}, 'a': true}] | pprint }}",
        "pprint of what is long": "{{ ['a' * 40, 'b' * 40] | pprint }}",
        "striptags": "{{ '<b>a</b>  c' | striptags }}",
        "urlencode": "{{ 'a b/ä&c' | urlencode }} {{ {'a': 1, 'b': 'x y'} | urlencode }}",
        "xmlattr": "{{ {'a': 1, 'b': none} | xmlattr }}",
        "escape": "{{ '<a href=\"x\">&\\'/</a>' | escape }} {{ 5 | e }} {{ '&amp;' | e }} {{ '<' | e | e }}",
        "force escape": "{{ '<' | e | forceescape }}",
        "safe": "{{ '<b>' | safe }} {{ ('<b>' | safe) ~ '<' }} {{ '<b>' | safe | length }}",
        "safe and added": "{{ ('<b>' | safe) + '<' }}",
        "escape and added": "{{ ('<' | e) + '<' }} {{ '<' + ('<' | e) }}",
        "safe and replaced": "{{ ('<b>' | safe).replace('b', '<') }} {{ '<b>' | safe | replace('b', '<') }}",
        "safe and formatted": "{{ '<%s>' | safe | format('<') }}",
        "autoescape": "{% autoescape true %}{{ '<' }}{{ '<' | safe }}{% endautoescape %}{{ '<' }}",
        "attr": "[{{ {'a': 1} | attr('a') }}]",
        "attr of a namespace": "{{ namespace(a=1) | attr('a') }}",
        "unknown filter": "{{ 'a' | nothing }}",
        "unknown filter that is not reached": "{% if false %}{{ 'a' | nothing }}{% endif %}x",
        "unknown filter in an inline if": "{{ 'x' if true else 'a' | nothing }}",
        "filter with too many arguments": "{{ 'a' | upper(1) }}",
        "filter with an unknown keyword": "{{ 'a' | trim(foo=1) }}",
        "filter over lines": "{{ 'a'\n  | upper\n  | lower }}",
    },
    "tojson": {
        "values": r"""{{ {'a': [1, 1.0, true, false, none, 'x'], 'b': {}, 'c': []} | tojson }} {{ 'a "b" \\ \n' | tojson }} {{ none | tojson }} {{ [] | tojson }}""",
        "unicode": "{{ 'é你👍' | tojson }} {{ {'ключ': ['ß', {'ü': '🐈'}]} | tojson }}",
        "control characters": r"{{ '\x00\x1f\x7f\b\f\r\t\u2028\u00a0' | tojson }}",
        "HTML": "{{ '<a>&\\'</a>' | tojson }}",
        "then escape": "{{ '<' | tojson | escape }} {{ ('<' | tojson) is escaped }}",
        "floats": "{{ [1.0, 0.1, 1e16, 1e-5, 1e22, -0.0, 1.5e300, 123456789.123] | tojson }}",
        "infinity": "{{ [1e308 * 10, -1e308 * 10, 'nan' | float] | tojson }}",
        "large integers": "{{ [9223372036854775808, -9223372036854775808, 170141183460469231731687303715884105727] | tojson }}",
        "keys that are no strings": "{{ {1: 'a', none: 'b', false: 'c', 1.5: 'd'} | tojson }}",
        "key that is a tuple": "{{ {(1, 2): 3} | tojson }}",
        "tuple": "{{ (1, (2,)) | tojson }}",
        "slice": "{{ [1, 2, 3][1:] | tojson }} {{ ([1] + [2]) | tojson }} {{ ([1] * 2) | tojson }}",
        "range": "{{ range(3) | tojson }}",
        "views of a dict": "{{ {'a': 1}.items() | tojson }}",
        "filter's result": "{{ ['a'] | map('upper') | tojson }}",
        "list of views of a dict": "{{ {'a': 1}.items() | list | tojson }} {{ {'a': 1}.keys() | list | tojson }}",
        "namespace": "{{ namespace(a=1) | tojson }}",
        "function": "{{ range | tojson }}",
        "indent": "{{ {'a': [1, {'b': 2}], 'c': {}, 'd': []} | tojson(indent=2) }}",
        "indent of zero": "{{ [1, [2]] | tojson(indent=0) }}",
        "indent of none": "{{ [1, [2]] | tojson(indent=none) }}",
        "indent by a string": r"{{ [1, [2]] | tojson(indent='\t') }}",
        "indent of true": "{{ [1] | tojson(indent=true) }}",
        "indent of 20": "{{ [1] | tojson(indent=20) }}",
        "negative indent": "{{ [1, [2]] | tojson(indent=-1) }}",
        "separators": "{{ {'a': 1, 'b': [2, 3]} | tojson(separators=(',', ':')) }} {{ {'a': 1, 'b': 2} | tojson(separators=['; ', ' = ']) }}",
        "separators and indent": "{{ {'a': 1, 'b': [2, 3]} | tojson(indent=1, separators=(', ', ':')) }}",
        "three separators": "{{ [1] | tojson(separators=(',', ':', '-')) }}",
        "sorted keys": "{{ {'b': 1, 'a': {'d': 1, 'c': 2}, 'B': 3, 'é': 4} | tojson(sort_keys=true) }}",
        "sorted keys of mixed kinds": "{{ {'b': 1, 2: 3} | tojson(sort_keys=true) }}",
        "sorted keys that are numbers": "{{ {10: 1, 9: 2} | tojson(sort_keys=true) }}",
        "ASCII only": r"{{ {'é': ['你', '👍', '\x7f', '\u2028', '<']} | tojson(ensure_ascii=true) }}",
        "ASCII not only": "{{ {'é': '你'} | tojson(ensure_ascii=false) }}",
        "all options": "{{ {'b': ['é'], 'a': none} | tojson(ensure_ascii=true, indent=2, separators=(',', ': '), sort_keys=true) }}",
        "options by place": "{{ {'b': ['é'], 'a': none} | tojson(true, 1, none, true) }}",
        "first option by place is not the indent": "{{ ['é', 1] | tojson(4) }}",
        "unknown option": "{{ [1] | tojson(foo=1) }}",
        "deep value": "{% set ns = namespace(x=[]) %}{% for i in range(70) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x | tojson }}",
        "of the context": (
            "{{ tools | tojson }}\n{{ tools[0] | tojson(indent=4) }}\n{{ messages[1].tool_calls[0].function.arguments | tojson }}", CALLS),
        "in a set block": ("{% set x %}{{ tools[0].function.name | tojson }}{% endset %}{{ x }}{{ x | length }}", CALLS),
    },
    "dicts": {
        "get": "{{ {'a': 1}.get('a') }} {{ {'a': 1}.get('b') }} {{ {'a': 1}.get('b', 'x') }} {{ {'a': none}.get('a', 'x') }} {{ {1: 2}.get(1) }}",
        "get of nothing then or": "{{ {'a': 1}.get('b') or 'x' }} {{ {'a': {}}.get('a').get('b', {}).get('c') }}",
        "get without arguments": "{{ {'a': 1}.get() }}",
        "keys, values, items":
            "{{ {'a': 1, 'b': 2}.keys() | list }} {{ {'a': 1, 'b': 2}.values() | list }} {{ {'a': 1, 'b': 2}.items() | list }}"
            " {{ {'a': 1}.values() | sum }} {{ {'b': 1, 'a': 2}.keys() | sort | join(',') }}",
        "loop over items": "{% for k, v in {'a': 1, 'b': [2]}.items() %}{{ loop.index }}{{ k }}={{ v }}{{ ', ' if not loop.last }}{% endfor %}",
        "loop over keys": "{% for k in {'a': 1, 'b': 2} %}{{ k }}{% endfor %}{% for k in {'c': 1}.keys() %}{{ k }}{% endfor %}",
        "loop over pairs without items": "{% for k, v in {'ab': 1} %}{{ k }}{{ v }}{% endfor %}",
        "copy": "{{ {'a': 1}.copy() }}",
        "update is unsafe": "{{ {'a': 1}.update({'b': 2}) }}",
        "pop is unsafe": "{{ {'a': 1}.pop('a') }}",
        "setdefault is unsafe": "{{ {}.setdefault('a', 1) }}",
        "append is unsafe": "{{ [1].append(2) }}",
        "append in a set": "{% set x = [] %}{% set _ = x.append(1) %}{{ x }}",
        "sort of a list is unsafe": "{{ [2, 1].sort() }}",
        "do is unknown": "{% set x = [] %}{% do x.append(1) %}",
        "dict": "{{ dict(a=1, b='x') }} {{ dict({'a': 1}, b=2) }} {{ dict() }} {{ dict(dict(a=1), **{'b': 3}) }}",
        "dict of pairs": "{{ dict([('a', 1), ['b', 2]]) }} {{ dict({'a': 1}.items()) }}",
        "dict from keys": "{{ dict.fromkeys(['a', 'b'], 0) }}",
        "dict from keys without a value": "{{ dict.fromkeys('aba') }} {{ dict.fromkeys(('x', 1)) }} {{ {}.fromkeys(['a'], [1]) }}",
        "dict from keys of a dict": "{% set d = dict.fromkeys({'a': 1, 'b': 2}, false) %}{{ d }} {{ d | length }} {{ d.a }}",
        "dict from keys that are lists": "{{ dict.fromkeys([[1]]) }}",
        "dict from no keys": "{{ dict.fromkeys() }}",
        "dict of a string": "{{ dict('ab') }}",
        "order of keys from the context": ("{{ d | list | join }} {{ d | tojson }}", {"d": {"z": 1, "a": 2, "m": 3}}),
        "order of keys": "{{ {'z': 1, 'a': 2, 'm': 3}.keys() | join }}",
        "truth": "{{ 'T' if {} else 'F' }}{{ 'T' if {'a': 0} else 'F' }}",
    },
    "loops": {
        "variables":
            "{% for x in 'abc' | list %}{{ loop.index }} {{ loop.index0 }} {{ loop.revindex }} {{ loop.revindex0 }} {{ loop.first }}"
            " {{ loop.last }} {{ loop.length }} {{ loop.depth }} {{ loop.depth0 }}\n{% endfor %}",
        "neighbours": "{% for x in [1, 2, 3] %}[{{ loop.previtem }} {{ x }} {{ loop.nextitem }}]{% endfor %}",
        "neighbours that are not there": "{% for x in [1] %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{% endfor %}",
        "attribute of the item before": (
            "{% for m in messages %}{% if not loop.first and loop.previtem.role != m.role %}{{ loop.previtem.role }}>{{ m.role }};{% endif %}"
            "{% endfor %}", CHAT),
        "attribute of no item before": ("{% for m in messages %}{{ loop.previtem.role }}{% endfor %}", CHAT),
        "attribute of the item after": (
            "{% for m in messages %}{% if loop.last or loop.nextitem.role != 'user' %}{{ loop.index }}{% endif %}{% endfor %}", CHAT),
        "over a string": "{% for c in 'abc' %}{{ c }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }} {% endfor %}",
        "over a range": "{% for i in range(3) %}{{ i }}{{ loop.last }}{{ loop.length }} {% endfor %}",
        "over a filter's result": "{% for i in [1, 2, 3] | select('odd') %}{{ i }}{{ loop.last }}{{ loop.length }}{{ loop.revindex0 }} {% endfor %}",
        "over none": "{% for x in none %}a{% endfor %}",
        "over none with else": "{% for x in none %}a{% else %}b{% endfor %}",
        "over a missing field": ("[{% for x in message.tool_calls %}a{% endfor %}]", {"message": {}}),
        "over a field that is none": ("[{% for x in message.tool_calls %}a{% endfor %}]", {"message": {"tool_calls": None}}),
        "over a number": "{% for x in 3 %}a{% endfor %}",
        "over a truth value": "{% for x in true %}a{% endfor %}",
        "else": "{% for x in [] %}a{% else %}b{% endfor %}{% for x in [1] %}c{% else %}d{% endfor %}",
        "if": "{% for x in [1, 2, 3, 4] if x is even %}{{ x }}{{ loop.index }}/{{ loop.length }}{{ ',' if not loop.last }}{% endfor %}",
        "if and else": "{% for x in [1, 3] if x is even %}a{% else %}b{% endfor %}",
        "if over an attribute": ("{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ m.content | trim }}{% endfor %}", CHAT),
        "if cannot see the loop": "{% for x in [1, 2, 3] if loop.index > 1 %}{{ x }}{% endfor %}",
        "if and an inline if": "{% for x in ([1] if true else [2]) if x %}{{ x }}{% endfor %}",
        "inline if as the sequence": "{% for x in [1] if true else [2] %}{{ x }}{% endfor %}",
        "unpacked":
            "{% for a, b in [(1, 2), [3, 4]] %}{{ a }}{{ b }};{% endfor %}{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}"
            "{% for (a, b) in [(5, 6)] %}{{ a }}{{ b }}{% endfor %}",
        "unpacked strings": "{% for a, b in ['xy'] %}{{ a }}{{ b }}{% endfor %}",
        "unpacked with too few": "{% for a, b in [(1,)] %}{{ a }}{% endfor %}",
        "unpacked with too many": "{% for a, b in [(1, 2, 3)] %}{{ a }}{% endfor %}",
        "unpacked number": "{% for a, b in [1] %}{{ a }}{% endfor %}",
        "break": "{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}",
        "continue": "{% for i in [1, 2, 3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{{ loop.index }}{% endfor %}",
        "break and else": "{% for i in [1, 2] %}{% if i == 2 %}{% break %}{% endif %}a{% else %}b{% endfor %}",
        "break at once and else": "{% for i in [1, 2] %}{% break %}{% else %}b{% endfor %}",
        "continue always and else": "{% for i in [1, 2] %}{% continue %}{% else %}b{% endfor %}",
        "break of the inner loop":
            "{% for i in [1, 2] %}{% for j in [1, 2, 3] %}{% if j == 2 %}{% break %}{% endif %}{{ i }}{{ j }};{% endfor %}{% endfor %}",
        "break in a with": "{% for i in [1, 2] %}{% with a = i %}{{ a }}{% break %}{% endwith %}{% endfor %}b",
        "continue in a with": "{% for i in [1, 2, 3] %}{% with a = i %}{% if a == 2 %}{% continue %}{% endif %}{{ a }}{% endwith %}{% endfor %}b",
        "break in a set block": "{% for i in [1, 2] %}{{ i }}{% set x %}a{% break %}{% endset %}{% endfor %}b",
        "continue in a filter block": "{% for i in [1, 2] %}{% filter upper %}a{% if i == 1 %}{% continue %}{% endif %}b{% endfilter %}{% endfor %}c",
        "break in a macro": "{% for i in [1, 2] %}{% macro f() %}{% break %}{% endmacro %}{% endfor %}b",
        "break outside of a loop": "{% break %}",
        "nested":
            "{% for i in [1, 2] %}{% set outer = loop %}{% for j in [1, 2] %}{{ outer.index }}{{ loop.index }}{{ loop.first and outer.first }}"
            " {% endfor %}{% endfor %}",
        "loop of the outer after the inner": "{% for i in [1, 2] %}{% for j in [1] %}{% endfor %}{{ loop.index }}{% endfor %}",
        "cycle": "{% for i in range(5) %}{{ loop.cycle('a', 'b') }}{% endfor %}",
        "cycle of nothing": "{% for i in range(2) %}{{ loop.cycle() }}{% endfor %}",
        "changed": "{% for i in [1, 1, 2, 2, 1] %}{{ 'x' if loop.changed(i) else '.' }}{% endfor %}",
        "recursion": ("{% for n in tree recursive %}{{ loop.depth }}{{ n.name }}{% if n.children %}({{ loop(n.children) }}){% endif %}{% endfor %}|", TREE),
        "loop outside": "[{{ loop }}]",
        "loop as a name": "{% set loop = 1 %}{{ loop }}",
        "loop with an unknown attribute": "{% for i in [1] %}[{{ loop.foo }}]{% endfor %}",
        "target does not leak": "{% set x = 'out' %}{% for x in [1] %}{{ x }}{% endfor %}{{ x }}",
        "target is not there after": "{% for y in [1] %}{% endfor %}[{{ y }}]",
        "over the target's own name": "{% set x = [1, 2] %}{% for x in x %}{{ x }}{% endfor %}",
        "over messages in reverse": (
            "{% for m in messages[::-1] %}{{ loop.index0 }}{{ m.role[0] }}{% endfor %}{% for m in messages | reverse %}{{ m.role[0] }}"
            "{% endfor %}", CHAT),
        "attribute as the target": "{% for a.b in [1] %}{% endfor %}",
        "truth of loop in a test": "{% for i in [1, 2] %}{{ 'odd' if loop.index is odd else 'even' }}{{ loop.index is divisibleby 2 }}{% endfor %}",
    },
    "set": {
        "value": "{% set x = 1 %}{{ x }}{% set x = x + 1 %}{{ x }}",
        "several": "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (c, d) = [3, 4] %}{{ c }}{{ d }}{% set a, b = b, a %}{{ a }}{{ b }}",
        "too many": "{% set a, b = [1, 2, 3] %}",
        "tuple": "{% set x = 1, %}{{ x }}{% set y = 1, 2 %}{{ y }}",
        "of a loop does not leak": "{% set x = 0 %}{% for i in [1, 2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}",
        "of a loop is fresh each time": "{% for i in [1, 2] %}[{{ y }}]{% set y = i %}{% endfor %}",
        "in an if leaks": "{% if true %}{% set x = 1 %}{% endif %}{{ x }}",
        "in an if within a loop": "{% set x = 'a' %}{% for i in [1, 2] %}{% if i == 1 %}{% set x = 'b' %}{% endif %}{{ x }}{% endfor %}{{ x }}",
        "in a branch that is not taken": "{% if false %}{% set x = 1 %}{% endif %}[{{ x }}]{{ x is defined }}",
        "over the context": ("{% set messages = messages[1:] %}{{ messages | length }}{% for m in messages %}{{ m.role[0] }}{% endfor %}", CHAT),
        "over the context in an if": (
            "{% if messages[0].role == 'system' %}{% set loop_messages = messages[1:] %}{% else %}{% set loop_messages = messages %}{% endif %}"
            "{{ loop_messages | length }}", CHAT),
        "block": "{% set x %}a{{ 1 + 1 }}b{% endset %}{{ x }}{{ x | length }}{{ x is string }}",
        "block with a filter": "{% set x | upper %}a{% endset %}{{ x }}{% set y | replace('a', 'b') | trim %} a {% endset %}[{{ y }}]",
        "block of a number": "{% set x %}5{% endset %}{{ x + '1' }}",
        "block has a scope": "{% set a = 1 %}{% set x %}{% set a = 2 %}{{ a }}{% endset %}{{ x }}{{ a }}",
        "block of several": "{% set a, b %}x{% endset %}",
        "of an item": "{% set d = {} %}{% set d['a'] = 1 %}",
        "of an attribute of a dict": "{% set d = {} %}{% set d.a = 1 %}",
        "reserved name": "{% set none = 1 %}",
        "shadowed function": "{% set range = 1 %}{{ range }}",
        "without value": "{% set x %}",
        "namespace":
            "{% set ns = namespace(found=false, n=0) %}{% for i in [1, 2, 3] %}{% if i == 2 %}{% set ns.found = true %}{% endif %}"
            "{% set ns.n = ns.n + i %}{% endfor %}{{ ns.found }}{{ ns.n }}",
        "namespace of a dict": "{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns.b }}",
        "namespace without arguments": "{% set ns = namespace() %}{% set ns.a = 1 %}{{ ns.a }}[{{ ns.b }}]{{ ns.b is defined }}",
        "namespace by item": "{% set ns = namespace(a=1) %}{{ ns['a'] }}",
        "namespace of several": "{% set ns = namespace() %}{% set ns.a, ns.b = 1, 2 %}{{ ns.a }}{{ ns.b }}",
        "namespace by a block": "{% set ns = namespace() %}{% set ns.a %}x{% endset %}{{ ns.a }}",
        "namespace in a macro": "{% set ns = namespace(n=0) %}{% macro f() %}{% set ns.n = ns.n + 1 %}{% endmacro %}{{ f() }}{{ f() }}{{ ns.n }}",
        "namespace with an underscore": "{% set ns = namespace(_a=1) %}",
        "namespace set with an underscore": "{% set ns = namespace() %}{% set ns._a = 1 %}",
        "namespace's methods": "{{ namespace(a=1).items() }}",
        "namespace in a loop": "{% for k in namespace(a=1) %}{{ k }}{% endfor %}",
        "namespace of a list":
            "{% set ns = namespace(parts=[]) %}{% for x in 'ab' %}{% set ns.parts = ns.parts + [x ~ loop.index] %}{% endfor %}"
            "{{ ns.parts | join(' ') }}",
    },
    "macros": {
        "name of a loop's variable": ("{% macro m(a) %}<{{ a }}>{% endmacro %}{{ m(1) }}{% for m in messages %}{{ m.role }}{{ m['role'] }}{% endfor %}{{ m(2) }}", {"messages": [{"role": "user"}]}),
        "name of a parameter": "{% macro f(g) %}{{ g.x }}{% endmacro %}{% macro g() %}g{% endmacro %}{{ f({'x': 1}) }}{{ g() }}",
        "arguments": "{% macro f(a, b) %}<{{ a }}|{{ b }}>{% endmacro %}{{ f(1, 2) }}{{ f(b=3, a=4) }}{{ f(5) }}{{ f(6, b=7) }}",
        "defaults": "{% macro f(a, b='x', c=none) %}{{ a }}{{ b }}{{ c }};{% endmacro %}{{ f(1) }}{{ f(1, 2) }}{{ f(1, c=3) }}{{ f(1, none) }}",
        "default from an argument before": "{% macro f(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }}{{ f(1, 2) }}",
        "default from outside": "{% set x = 5 %}{% macro f(a=x) %}{{ a }}{% endmacro %}{{ f() }}",
        "undefined for a default": "{% macro f(a='x') %}{{ a }}{% endmacro %}{{ f(missing) }}",
        "too many arguments": "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}",
        "unknown keyword": "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(b=2) }}",
        "argument given twice": "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, a=2) }}",
        "rest of the arguments": "{% macro f(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, 3, k=4) }}",
        "spread arguments":
            "{% macro f(a, b, c='z') %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(*[1, 2]) }}{{ f(**{'a': 3, 'b': 4, 'c': 5}) }}"
            "{{ f(6, *[7], **{'c': 8}) }}",
        "recursion": "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
        "value is a string": "{% macro f() %} 5 {% endmacro %}{{ f() | trim | int + 1 }}{{ f() is string }}{{ f().strip() }}",
        "value in an if": "{% macro f() %}false{% endmacro %}{% if f() == 'false' %}a{% endif %}{% if f() %}b{% endif %}",
        "call of another": "{% macro f(x) %}[{{ x }}]{% endmacro %}{% macro g(x) %}{{ f(f(x)) }}{% endmacro %}{{ g(1) }}",
        "call of a later one": "{% macro g() %}{{ f() }}{% endmacro %}{% macro f() %}x{% endmacro %}{{ g() }}",
        "call before it": "{{ f() }}{% macro f() %}x{% endmacro %}",
        "outer variable": "{% set x = 1 %}{% macro f() %}{{ x }}{% endmacro %}{{ f() }}{% set x = 2 %}{{ f() }}",
        "outer variable that is set later": "{% macro f() %}{{ x }}{% endmacro %}{% set x = 1 %}{{ f() }}",
        "outer variable that it sets": "{% set x = 1 %}{% macro f() %}{% set x = x + 1 %}{{ x }}{% endmacro %}{{ f() }}{{ f() }}{{ x }}",
        "slice of an outer variable": "{% set xs = [1, 2, 3] %}{% macro f() %}{{ xs[1:] }}{% endmacro %}{{ f() }}",
        "slice of a variable over the context": (
            "{% set messages = messages[2:] %}{% macro f() %}{{ messages[1:] | length }}{% endmacro %}{{ f() }}", CHAT),
        "outer variable in a filter block": "{% set y = 'z' %}{% macro f() %}{% filter replace('a', y) %}a{% endfilter %}{% endmacro %}{{ f() }}",
        "outer variable in a with": "{% set x = 1 %}{% macro f() %}{% with x = x + 1 %}{{ x }}{% endwith %}{% endmacro %}{{ f() }}",
        "outer variable in a set block's filter":
            "{% set y = 'z' %}{% macro f() %}{% set x | replace('a', y) %}a{% endset %}{{ x }}{% endmacro %}{{ f() }}",
        "outer variable in a loop":
            "{% set xs = [1, 2] %}{% set n = 5 %}{% macro f() %}{% for x in xs if x < n %}{{ x + n }};{% endfor %}{% endmacro %}{{ f() }}",
        "loop variable is not seen": "{% macro f() %}[{{ i }}]{% endmacro %}{% for i in [1] %}{{ f() }}{% endfor %}",
        "loop variable of its own loop": "{% for i in [1, 2] %}{% macro f() %}[{{ i }}]{% endmacro %}{{ f() }}{% endfor %}",
        "context": ("{% macro f() %}{{ messages | length }}{% endmacro %}{{ f() }}", CHAT),
        "in an if": "{% if true %}{% macro f() %}x{% endmacro %}{% endif %}{{ f() }}",
        "in a loop does not leak": "{% for i in [1] %}{% macro f() %}x{% endmacro %}{% endfor %}{{ f() }}",
        "set does not leak": "{% macro f() %}{% set z = 1 %}{% endmacro %}{{ f() }}[{{ z }}]",
        "attributes":
            "{% macro f(a, b=1) %}{{ caller is defined }}{% endmacro %}{{ f.name }} {{ f.arguments }} {{ f.caller }} {{ f.catch_varargs }}"
            " {{ f.catch_kwargs }}",
        "passed as a value": "{% macro f(x) %}<{{ x }}>{% endmacro %}{% macro g(h, x) %}{{ h(x) }}{% endmacro %}{{ g(f, 1) }}",
        "raises": "{% macro f() %}{{ raise_exception('from a macro') }}{% endmacro %}{{ f() }}",
        "call block": "{% macro f(x) %}<{{ x }}>{{ caller() }}</{{ x }}>{% endmacro %}{% call f('a') %}in{{ 1 }}{% endcall %}",
        "call block with arguments":
            "{% macro f(xs) %}{% for x in xs %}{{ caller(x, loop.index) }}{% endfor %}{% endmacro %}{% call(x, n) f([5, 6]) %}{{ n }}:{{ x }}"
            " {% endcall %}",
        "call block with a default": "{% macro f() %}{{ caller() }}{{ caller(2) }}{% endmacro %}{% call(x=1) f() %}{{ x }}{% endcall %}",
        "call block sees outside": "{% set y = 7 %}{% macro f() %}{{ caller() }}{% endmacro %}{% call f() %}{{ y }}{% endcall %}",
        "call block of one without caller": "{% macro f() %}a{% endmacro %}{% call f() %}b{% endcall %}",
        "caller is not there": "{% macro f() %}{{ caller() }}{% endmacro %}{{ f() }}",
        "caller is tested": "{% macro f() %}{{ 'y' if caller is defined else 'n' }}{% endmacro %}{{ f() }}{% call f() %}{% endcall %}",
    },
    "blocks": {
        "if": "{% if 0 %}a{% elif '' %}b{% elif [1] %}c{% else %}d{% endif %}{% if none %}a{% endif %}",
        "with": "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}[{{ a }}]",
        "with shadows": "{% set a = 1 %}{% with a = 2 %}{{ a }}{% endwith %}{{ a }}",
        "with has a scope": "{% with %}{% set z = 1 %}{{ z }}{% endwith %}[{{ z }}]",
        "with's values do not see each other": "{% set a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}",
        "filter": "{% filter upper %}a{{ 'b' }}{% endfilter %}{% filter replace('a', 'b') | trim %} a {% endfilter %}|",
        "filter has a scope": "{% set a = 1 %}{% filter upper %}{% set a = 2 %}{% endfilter %}{{ a }}",
        "block": "{% block a %}x{% endblock %}{% block b scoped %}y{% endblock b %}",
        "include": "{% include 'x' %}",
        "include that may be missing": "{% include 'x' ignore missing %}",
        "import": "{% import 'x' as y %}",
        "extends": "{% extends 'x' %}",
        "raise_exception": "a{{ raise_exception('Roles must alternate!') }}b",
        "raise_exception with a variable": ("{{ raise_exception('Unknown role: ' + messages[0].role) }}", CHAT),
        "raise_exception with a number": "{{ raise_exception(5) }}",
        "raise_exception without arguments": "{{ raise_exception() }}",
        "raise_exception that is not reached": "{% if false %}{{ raise_exception('x') }}{% endif %}a",
        "raise_exception in an inline if": "{{ 'a' if true else raise_exception('x') }}",
        "raise_exception in a set": "{% set _ = raise_exception('in a set') %}",
        "strftime_now": "{{ strftime_now('%d %b %Y') | length }} {{ strftime_now('x%%') }} {{ strftime_now('%Y').isdigit() }}",
        "strftime_now is defined": "{{ strftime_now is defined }} {{ raise_exception is defined }} {{ nothing_now is defined }}",
        "range":
            "{{ range(3) | list }} {{ range(1, 4) | list }} {{ range(10, 0, -3) | list }} {{ range(0) | list }} {{ range(3, 1) | list }}"
            " {{ range(5) | length }}",
        "range of a float": "{{ range(2.0) | list }}",
        "range of a string": "{{ range('2') | list }}",
        "range too large": "{{ range(100001) | length }}",
        "range with a step of zero": "{{ range(1, 5, 0) | list }}",
        "cycler": "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.next() }}",
        "joiner": "{% set j = joiner('; ') %}{{ j() }}a{{ j() }}b{{ j() }}c",
        "joiner's default": "{% set j = joiner() %}{{ j() }}a{{ j() }}b",
        "debug is unknown": "{{ debug() }}",
    },
    "generation": {
        "around text": "a{% generation %}b{% endgeneration %}c",
        "line breaks": "a\n{% generation %}\nb\n{% endgeneration %}\nc",
        "minus": "a {%- generation -%} b {%- endgeneration -%} c",
        "indented": "a\n  {% generation %}\n  b\n  {% endgeneration %}\nc",
        "without spaces": "{%generation%}b{%endgeneration%}",
        "in a loop": (
            "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ loop.index }}{% endgeneration %}{% else %}"
            "{{ m.role }};{% endif %}{% endfor %}", CHAT),
        "set inside does not leak": "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
        "set of an outer variable from itself": "{% set x = 1 %}{% generation %}{% set x = x + 1 %}{{ x }}{% endgeneration %}{{ x }}",
        "namespace inside": "{% set ns = namespace(n=1) %}{% generation %}{% set ns.n = 2 %}{% endgeneration %}{{ ns.n }}",
        "nested": "{% generation %}a{% generation %}b{% endgeneration %}{% endgeneration %}c",
        "break inside": "{% for i in [1, 2] %}{% generation %}{{ i }}{% break %}{% endgeneration %}{% endfor %}",
        "loop inside": "{% generation %}{% for i in [1, 2, 3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}{% endgeneration %}",
        "in a macro": "{% macro f(x) %}{% generation %}{{ x }}{% endgeneration %}{% endmacro %}{{ f(1) }}",
        "in a set block": "{% set x %}{% generation %} a {% endgeneration %}{% endset %}[{{ x | trim }}]",
        "in a filter block": "{% filter upper %}{% generation %}a{% endgeneration %}{% endfilter %}",
        "in a raw block": "{% raw %}{% generation %}a{% endgeneration %}{% endraw %}",
        "in a comment": "{# {% generation %} #}a",
        "in a string": "{{ '{% generation %}' }}",
        "without an end": "{% generation %}a",
        "without a beginning": "a{% endgeneration %}",
        "across an if": "{% if true %}{% generation %}{% endif %}a{% if true %}{% endgeneration %}{% endif %}",
        "variable of that name": "{% set generation = 1 %}{{ generation }}",
    },
    "unary plus": {
        "of a number": "{{ +1 + 1 }}|{{ (+1) }} {{ 2 - +1 }} {{ 2 + +1 }} {{ 2 * +3 }} {{ [+1, -1] }} {{ {'a': +1} }} {{ range(+2) | list }}",
        "in a set": "{% set x = +1 %}{{ x }} {% set y = +x %}{{ y }} {% set z = + 2.5 %}{{ z }}",
        "in a condition": "{% if +1 %}a{% endif %}{% if not +0 %}b{% endif %} {{ 'c' if +1 else 'd' }} {{ 1 if false else +2 }}",
        "of a comparison": "{{ 1 < +2 }} {{ 1 == +1 }} {{ +1 in [1] }} {{ 1 in [+1] }} {{ true and +1 }}",
        "of truth values": "{{ (+true) }} {{ (+false) }}",
        "of an attribute": "{% set d = {'a': 3} %}{{ (+d.a) }} {{ (+d['a']) }} {{ [1, 2][+1] }} {{ 'abc'[+1:] }}",
        "with a filter": "{{ (+1.5 | int) }} {{ 3 | round(+1) }} {{ (-+1) }} {{ (+-1) }} {{ (+ +1) }}",
        "of text": "{{ (+'a') }}",
        "of a list": "{{ (+[1]) }}",
        "of none": "{{ (+none) }}",
        "of what is undefined": "{{ (+missing) }}",
        "behind values it is a sum": "{% set x = 2 %}{{ x +1 }} {{ (x) +1 }} {{ [1][0] +1 }} {{ 'a' +'b' }} {{ x.real +1 }} {{ true +1 }}",
    },
    "sandbox": {
        "class of a string": "[{{ ''.__class__ }}]",
        "class of a class": "{{ ''.__class__.__mro__ }}",
        "class by item": "[{{ ''['__class__'] }}]",
        "class by a filter": "[{{ '' | attr('__class__') }}]",
        "globals of a macro": "{% macro f() %}{% endmacro %}[{{ f.__globals__ }}]",
        "init of a function": "{{ raise_exception.__globals__['os'] }}",
        "subclasses": "{{ ().__class__.__base__.__subclasses__() }}",
        "method that is unsafe": "{{ [1, 2].clear() }}",
        "method that is unsafe but not called": "[{{ [1].append is defined }}]",
        "extend": "{% set x = [1] %}{{ x.extend([2]) }}",
        "self": "[{{ self.foo }}]",
    },
    "syntax errors": {
        "empty variable": "{{ }}",
        "two names": "{{ a b }}",
        "operator at the end": "{{ 1 + }}",
        "if without condition": "{% if %}a{% endif %}",
        "if without end": "{% if true %}a",
        "end without if": "a{% endif %}",
        "wrong end": "{% if true %}a{% endfor %}",
        "unknown tag": "{% foo %}",
        "for without in": "{% for x [1] %}{% endfor %}",
        "unclosed variable": "{{ 1",
        "unclosed tag": "{% if true",
        "unclosed comment": "a {# b",
        "unclosed bracket": "{{ [1, 2 }}",
        "else twice": "{% if 1 %}a{% else %}b{% else %}c{% endif %}",
        "keyword before a place": "{{ dict(a=1, 2) }}",
        "unknown test": "{{ 1 is nothing }}",
        "unknown test that is not reached": "{% if false %}{{ 1 is nothing }}{% endif %}a",
        "two tests": "{{ 1 is defined is true }}",
        "assignment in an expression": "{{ a = 1 }}",
        "question mark": "{{ a ? b : c }}",
        "double ampersand": "{{ true && false }}",
        "exclamation mark": "{{ !true }}",
        "lambda": "{{ (lambda: 1)() }}",
        "comprehension": "{{ [x for x in [1]] }}",
        "f-string": "{{ f'a' }}",
        "walrus": "{{ (x := 1) }}",
        "is with an operator": "{{ 1 is 1 }}",
        "endset without set": "{% endset %}",
        "trans": "{% trans %}a{% endtrans %}",
    },
    "templates": {
        "ChatML": (
            "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}", CHAT | {"add_generation_prompt": True}),
        "system message by default": (
            "{% if messages[0]['role'] != 'system' %}{{ 'System: help.\n' }}{% endif %}{% for m in messages %}{{ m['role'] | upper }}"
            "{% endfor %}", PARTS),
        "system message taken out": (
            "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] | trim %}{%- set rest = messages[1:] %}{%- else %}"
            "{%- set system = '' %}{%- set rest = messages %}{%- endif %}{{ system }}|{{ rest | length }}", CHAT),
        "system messages by a filter": (
            "{% set system = messages | selectattr('role', 'equalto', 'system') | list %}{% if system %}{{ system[0].content }}{% endif %}"
            "{{ system | length }}", CHAT),
        "system messages left out": (
            "{% for m in messages | rejectattr('role', 'equalto', 'system') %}{{ loop.index0 }}{{ m.role }};{% endfor %}", CHAT),
        "users counted": (
            "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}"
            "{{ (messages | selectattr('role', 'equalto', 'user') | list | last).content | trim }}", CHAT),
        "roles must alternate": (
            "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
            "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% endfor %}", CHAT),
        "roles must alternate after the system message": (
            "{% set ns = namespace(index=0) %}{% for m in messages[1:] %}{% if (m.role == 'user') != (ns.index % 2 == 0) %}"
            "{{ raise_exception('alternate') }}{% endif %}{% set ns.index = ns.index + 1 %}{% endfor %}{{ ns.index }}", CHAT),
        "thoughts cut off": (
            r"{% for m in messages if m.role == 'assistant' %}{% set content = m.content %}{% if '</think>' in content %}"
            r"{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}[{{ content }}]{% endfor %}", CHAT),
        "thoughts cut out": (
            r"{% set content = messages[2].content %}"
            r"{% set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}[{{ thought }}]", CHAT),
        "thoughts of a field": (
            "{% for m in messages %}{% if m.reasoning_content is string %}{{ m.reasoning_content }}{% elif m.role == 'assistant' %}"
            "none{% endif %}{% endfor %}", CHAT),
        "last user by reverse": (
            "{%- set ns = namespace(multi_step=true, last=messages | length - 1) %}{%- for m in messages[::-1] %}"
            "{%- set index = (messages | length - 1) - loop.index0 %}"
            "{%- if ns.multi_step and m.role == 'user' and m.content is string"
            " and not (m.content.startswith('<tool_response>') and m.content.endswith('</tool_response>')) %}"
            "{%- set ns.multi_step = false %}{%- set ns.last = index %}{%- endif %}{%- endfor %}{{ ns.last }}", CHAT),
        "last user by an index": (
            "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}"
            "{% endfor %}{{ ns.last }}{{ messages[ns.last].content.strip() }}", CHAT),
        "last message": (
            "{{ messages[-1].role }}{{ messages[-1]['content'] | trim }}{% if messages[-1].role == 'user' %}!{% endif %}"
            "{{ (messages | last).role }}{{ messages[messages | length - 2].role }}", CHAT),
        "content that is a string or parts": (
            "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}{% if part.type == 'text' %}"
            "{{ part.text }}{% elif part['type'] == 'image' %}<image>{% endif %}{% endfor %}{% endif %}\n{% endfor %}", PARTS),
        "content that is iterable and no mapping": (
            "{% for m in messages %}{% if m.content is string %}s{% elif m.content is iterable and m.content is not mapping %}i{% else %}"
            "e{% endif %}{% endfor %}", PARTS),
        "content that is a sequence and no string": (
            "{% for m in messages %}{{ m.content is sequence and m.content is not string }}"
            "{{ m.content is not string and m.content is not none }}{% endfor %}", PARTS),
        "images counted": (
            "{% set images = messages[0].content | selectattr('type', 'equalto', 'image') | list %}{{ images | length }}"
            "{{ messages[0].content | map(attribute='type') | join('+') }}{% if 'image' in messages[0].content | map(attribute='type') %}"
            "!{% endif %}", PARTS),
        "texts joined": (
            "{{ messages[0].content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join('\n') }}"
            "{{ (messages[0].content | selectattr('text', 'defined') | first).text }}", PARTS),
        "text by a macro": (
            "{% macro visible_text(content) -%}{%- if content is string -%}{{- content }}"
            "{%- elif content is iterable and content is not mapping -%}{%- for item in content -%}"
            "{%- if item is mapping and item.type == 'text' -%}{{- item.text }}{%- elif item is string -%}{{- item }}{%- endif -%}{%- endfor -%}"
            "{%- else -%}{{- content }}{%- endif -%}{%- endmacro -%}{{ visible_text(messages[0].content) }}"
            "|{{ visible_text(messages[1].content) }}|{{ visible_text(none) }}", PARTS),
        "content that is none": (
            "{% for m in messages %}{% if m.content is none %}-{% elif m.content %}{{ m.content }}{% endif %}{{ (m.content or '')[:3] }}"
            ";{% endfor %}", CALLS),
        "content that is none is trimmed": ("{{ messages[1].content | trim }}", CALLS),
        "content that is none is split": ("{{ messages[1].content.split('x') }}", CALLS),
        "mark in a content that is none": ("{% if '</think>' in messages[1].content %}a{% endif %}", CALLS),
        "tool calls": (
            "{% for m in messages %}{% if m.tool_calls is defined and m.tool_calls %}{% for call in m.tool_calls %}"
            "{% if call.function is defined %}{% set call = call.function %}{% endif %}<tool_call>\n{\"name\": \"{{ call.name }}"
            "\", \"arguments\": {{ call.arguments | tojson }}}\n</tool_call>{% endfor %}{% endif %}{% endfor %}", CALLS),
        "tool calls by role or key": (
            "{% for m in messages %}{% if m.role == 'tool' or m.role == 'ipython' %}T{% elif 'tool_calls' in m %}C{{ m.tool_calls | length }}"
            "{% elif m['tool_calls'] %}?{% else %}{{ m.role }}{% endif %}{% endfor %}", CALLS),
        "arguments that may be a string": (
            "{% set a = messages[1].tool_calls[0].function.arguments %}{% if a is string %}{{ a }}{% else %}{{ a | tojson }}{% endif %}"
            "{{ a is mapping }}", CALLS),
        "arguments as attributes": (
            "{% for k, v in messages[1].tool_calls[0].function.arguments.items() %}<{{ k }}>{{ v if v is string else v | tojson }}</{{ k }}"
            ">{% endfor %}{% for k, v in messages[1].tool_calls[0].function.arguments | items %}{{ k }}={{ v | string }};{% endfor %}", CALLS),
        "arguments sorted": ("{% for k, v in messages[1].tool_calls[0].function.arguments | dictsort %}{{ k }}={{ v }};{% endfor %}", CALLS),
        "arguments as a call": (
            "{% set f = messages[1].tool_calls[0].function %}{{ f.name }}({% for k in f.arguments %}{{ k }}={{ f.arguments[k] }}"
            "{% if not loop.last %}, {% endif %}{% endfor %})", CALLS),
        "tools as JSON lines": (
            "{% if tools is not none and tools is defined %}{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
            "{{ tools | map(attribute='function') | map(attribute='name') | join(',') }}{% endif %}", CALLS),
        "tools without": (
            "{% if tools is not none %}tools{% else %}none{% endif %}{% if tools %}x{% endif %}{% if not tools is defined %}y{% endif %}",
            {"messages": [], "tools": None}),
        "tools that are not there": (
            "{% if tools is defined and tools is not none %}a{% endif %}{% if not tools is defined %}b{% endif %}{% if tools %}c{% endif %}"
            "{% if tools is not none %}d{% endif %}", {"messages": []}),
        "tools only at the last user": (
            "{% for m in messages %}"
            "{% if tools and m.role == 'user' and (loop.last or (messages | selectattr('role', 'equalto', 'user') | list)[-1] == m) %}"
            "{{ tools | length }}{% endif %}{{ m.role }};{% endfor %}", CALLS),
        "parameters of a tool": (
            "{% for name, p in tools[0].function.parameters.properties.items() %}{{ name }}"
            ": {{ p.type if p.type is string else p.type | join(' | ') }}{{ '?' if name not in tools[0].function.parameters.required }}"
            "{% if p.description %} // {{ p.description }}{% endif %}{% if p.default is defined %} = {{ p.default }}{% endif %}\n{% endfor %}", CALLS),
        "parameter named items": (
            "{% set p = tools[0].function.parameters.properties['items'] %}{{ p.type }} {{ p['items'].type }}"
            " {{ p['items']['enum'] | join('|') }}", CALLS),
        "parameter named items by attribute": ("{% set p = tools[0].function.parameters.properties %}[{{ p.items.type }}]", CALLS),
        "type by recursion": (
            "{% macro kind(spec) -%}"
            "{%- set basic = {'string': 'str', 'integer': 'int', 'number': 'float', 'boolean': 'bool', 'null': 'None'} -%}"
            "{%- if basic[spec.type] is defined -%}{{- basic[spec.type] -}}{%- elif spec.type == 'array' -%}"
            "{{- 'list[' + kind(spec['items']) + ']' -}}{%- elif spec.type == 'object' -%}dict{%- elif spec.type is iterable -%}"
            "{%- for t in spec.type -%}{{- kind({'type': t}) -}}{%- if not loop.last -%}|{%- endif -%}{%- endfor -%}{%- else -%}Any{%- endif -%}"
            "{%- endmacro -%}{% for name in tools[0].function.parameters.properties %}{{ name }}"
            "={{ kind(tools[0].function.parameters.properties[name]) }} {% endfor %}", CALLS),
        "type of several by length": (
            "{% set t = tools[0].function.parameters.properties.days.type %}{{ t is iterable and t is not string and t | length > 1 }}{{ t[0] }}"
            "{{ 'null' in t }}", CALLS),
        "tool answers in a row": (
            "{% for m in messages %}{% if m.role == 'tool' %}{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}<|user|>{% endif %}"
            "<r>{{ m.content }}</r>{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|end|>{% endif %}{% endif %}{% endfor %}", CALLS),
        "date by default": ("{% if not date_string is defined %}{% set date_string = '26 Jul 2024' %}{% endif %}{{ date_string }}", {}),
        "date from a function":
            "{%- if not date_string is defined %}{%- if strftime_now is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}"
            "{%- set date_string = '26 Jul 2024' %}{%- endif %}{%- endif %}{{ date_string | length }}",
        "special tokens": (
            "{{ bos_token }}{{ eos_token }}[{{ pad_token }}]{{ bos_token + 'a' + eos_token }}", {"bos_token": "<s>", "eos_token": "</s>"}),
        "special token that is not there": "{{ bos_token + 'a' }}",
        "generation prompt": (
            "{% if add_generation_prompt and messages[-1].role != 'assistant' %}<|assistant|>\n{% endif %}", CHAT | {"add_generation_prompt": True}),
        "generation prompt that is not there": (
            "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{{ add_generation_prompt }}", CHAT),
        "thinking switched off": (
            r"{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}x", {"enable_thinking": False}),
        "thinking not named":
            r"{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
            r"{{ 'on' if enable_thinking | default(true) else 'off' }}",
        "roles by a dict": (
            "{% set names = {'user': 'User', 'assistant': 'Bot'} %}{% for m in messages %}{{ names.get(m.role, m.role | capitalize) }}"
            ":{{ names[m.role] if m.role in names else '?' }} {% endfor %}", CHAT),
        "roles in a list": (
            "{% for m in messages %}{% if m.role in ['user', 'tool'] %}u{% elif m.role not in ('assistant',) %}o{% endif %}{% endfor %}", CHAT),
        "system message into the first user": (
            "{% set ns = namespace(system='') %}{% for m in messages %}{% if m.role == 'system' %}"
            "{% set ns.system = ns.system + m.content + '\n\n' %}{% elif m.role == 'user' %}[INST] {{ ns.system ~ m.content.strip() }}"
            " [/INST]{% set ns.system = '' %}{% endif %}{% endfor %}", CHAT),
        "contents joined over the same role": (
            "{% for m in messages %}{% if loop.previtem and loop.previtem.role == m.role %}+{% else %}<{{ m.role }}>{% endif %}{% endfor %}", CHAT),
        "prefix of the next": (
            "{% for m in messages %}{{ m.role[0] }}{% if loop.nextitem is defined and loop.nextitem.role == 'assistant' %}>{% endif %}"
            "{% if not loop.last %},{% else %}.{% endif %}{% endfor %}", CHAT),
        "first message of a role": (
            "{{ (messages | selectattr('role', 'equalto', 'assistant') | first | default({'content': 'none'})).content | length }}"
            "{{ (messages | selectattr('role', 'equalto', 'x') | first | default({'content': 'none'})).content }}", CHAT),
        "message with a field added": (
            "{% for m in messages[:1] %}{% set n = dict(m, extra=1) %}{{ n.role }}{{ n.extra }}{{ m.extra is defined }}{% endfor %}", CHAT),
        "message rebuilt": (
            "{% set ns = namespace(out=[]) %}{% for m in messages %}{% set ns.out = ns.out + [{'role': m.role, 'n': m.content | length}] %}"
            "{% endfor %}{{ ns.out | tojson }}", CHAT),
        "list built by a loop": (
            "{% set ns = namespace(turns=[]) %}{% for m in messages if m.role != 'system' %}{% set ns.turns = ns.turns + [m.role] %}{% endfor %}"
            "{{ ns.turns | join('>') }}{{ ns.turns[-1] }}{{ ns.turns is sequence }}", CHAT),
        "text built by a loop": (
            "{% set ns = namespace(text='') %}{% for m in messages %}{% set ns.text = ns.text ~ m.role ~ ('\n' if not loop.last else '') %}"
            "{% endfor %}{{ ns.text }}", CHAT),
        "content by its ends": (
            "{% for m in messages %}{{ m.content.strip().endswith('?') }}{{ m.content.startswith('<think>') and '</think>' in m.content }}"
            ";{% endfor %}", CHAT),
        "numbered documents": (
            "{% for d in documents %}[{{ loop.index0 }}] {{ d.title | default('Untitled', true) }}: {{ d['text'] | replace('\n', ' ') }}"
            "{{ '' if loop.last else '\n' }}{% endfor %}", {"documents": [{"title": "A", "text": "x\ny"}, {"title": "", "text": "z"}]}),
        "dashes": ("{{ '-' * 10 }}{{ '=' * (messages | length) }}", CHAT),
        "index from the end": (
            "{% for m in messages %}{{ loop.revindex }}{{ (messages | length) - loop.index }}{% if loop.index0 >= (messages | length) - 2 %}"
            "!{% endif %} {% endfor %}", CHAT),
        "message compared with the last": ("{% for m in messages %}{{ m == messages[-1] }} {% endfor %}", CHAT),
        "keys of a message": (
            "{{ messages[0].keys() | list }}{{ 'name' in messages[0] }}{{ messages[0] | length }}{% for k in messages[0] %}{{ k }}{% endfor %}", CHAT),
        "field by get": (
            "{{ messages[0].get('name', 'x') }}{{ messages[0].get('name') is none }}{{ messages[0]['name'] is defined }}"
            "{{ messages[0].name or 'y' }}", CHAT),
        "developer or system": (
            "{%- if messages[0].role in ['system', 'developer'] -%}{%- set sys = messages[0].content -%}{%- set msgs = messages[1:] -%}"
            "{%- endif -%}{{ sys }}{{ msgs[0].role }}{{ msgs | first | tojson }}", CHAT),
        "model identity by default": (
            "{{ model_identity if model_identity is defined else 'You are X.' }}{{ model_identity | default('You are Y.') }}", {}),
        "unknown role": (
            "{% for m in messages %}{% if m.role == 'user' %}u{% elif m.role == 'assistant' %}a{% else %}"
            "{{ raise_exception('Unknown role: ' ~ m.role) }}{% endif %}{% endfor %}", CHAT),
        "length in a comparison": (
            "{% if messages | length > 3 and messages | length % 2 == 0 %}a{% endif %}{{ messages | length + 1 }}{{ (messages | length) // 2 }}", CHAT),
        "first part of a content": (
            "{{ messages[0]['content'][0]['type'] }}{{ messages[0].content[1].text | length }}{{ messages[0].content[-1]['text'][:4] }}", PARTS),
        "contents that are strings": (
            "{{ messages | selectattr('content', 'string') | list | length }}{{ messages | selectattr('content', 'none') | list | length }}"
            "{{ messages | selectattr('tool_calls', 'defined') | map(attribute='role') | join }}", CALLS),
        "content made a list": (
            "{% for m in messages %}{% set parts = [m.content] if m.content is string else m.content %}{% for p in parts %}"
            "{{ p if p is string else p.type }};{% endfor %}{% endfor %}", PARTS),
        "roles once each": (
            "{{ messages | map(attribute='role') | unique | join(',') }}{{ messages | map(attribute='role') | list }}"
            "{{ (messages | map(attribute='content') | list)[0] }}", CHAT),
        "list by default": (
            "{{ (messages[0].tool_calls | default([])) | length }}{% for c in messages[0].tool_calls or [] %}x{% endfor %}"
            "{{ (messages[0].extra | default({})).a | default('y') }}", CHAT),
        "tool indented": (
            "{{ tools[0].function.parameters.required | tojson(indent=4) | indent(2) }}\n{{ tools[0].function.description | indent(2, true) }}", CALLS),
        "last but one": (
            "{{ messages[-2].role }}{{ messages[:-1] | length }}{{ messages[1:-1] | map(attribute='role') | join('+') }}"
            "{{ (messages[:-1] | last).role }}", CHAT),
        "text after the last mark": (r"{{ 'a<x>b<x>c'.split('<x>')[-1] }}{{ 'a<x>b<x>c'.rsplit('<x>', 1)[0] }}{{ 'a:b:c'.split(':', 1)[1] }}", {}),
    },
}
GROUPS["tests"] = {f"{test} of plain values": about(PLAIN_VALUES, [test]) for test in TESTS}
GROUPS["tests"] |= {f"kinds of {name}": about([value], KINDS) for name, value in SPECIAL_VALUES.items()}
GROUPS["tests"] |= {f"{test} of numbers": about(["1", "2", "3", "2.0", "true"], [test]) for test in NUMBER_TESTS} | {
    "odd of a string": "{{ 'a' is odd }}",
    "order of a string and a number": "{{ 'a' is lt 1 }}",
    "divisible by zero": "{{ 1 is divisibleby 0 }}",
    "in a string": "{{ 'a' is in 'abc' }} {{ 'x' is in 'abc' }} {{ 'a' is in {'a': 1} }} {{ 1 is not in [1] }}",
    "in none": "{{ 1 is in none }}",
    "sameas of variables": "{% set x = [1] %}{% set y = x %}{{ x is sameas y }} {{ x is sameas [1] }} {{ none is sameas none }} {{ true is sameas 1 }}",
    "filter and test": "{{ 'upper' is filter }} {{ 'nothing' is filter }} {{ 'odd' is test }} {{ 'nothing' is test }} {{ 'tojson' is filter }}",
    "negated": "{{ 1 is not none }} {{ not 1 is none }} {{ none is not none }} {{ 1 is not string and 2 is number }}",
    "arguments without brackets":
        "{{ 4 is divisibleby 2 }} {{ 'a' is eq 'a' }} {{ [1] is eq [1] }} {{ 1 is in [1, 2] }}"
        " {{ {'a': 1} is eq {'a': 1} }} {{ -1 is eq(-1) }}",
    "negative argument without brackets": "{{ -1 is eq -1 }}",
    "in a sum": "{{ (1 is number) + 1 }}",
    "after a filter": "{{ 'a' | upper is upper }} {{ '5' | int is number }} {{ [1] | length is eq 1 }}",
    "of an attribute": (
        "{{ m.content is string }} {{ m.content is none }} {{ m.x is none }} {{ m.x is defined and m.x is not none }} {{ m.n is none }}",
        {"m": {"content": "a", "n": None}}),
}


def render(template, context):
    """What a construct gives: its text or its error."""
    try:
        return {"value": _compile_jinja_template(template).render(**context)}
    except Exception as error:  # Python's own errors pass through jinja2, and each is a fact of the table.
        message = error.message if isinstance(error, TemplateError) else str(error)
        return {"error": {"class": type(error).__name__, "message": message if isinstance(message, str) else str(message)}}


def visible(line):
    """A line of JSON with escapes for what is not seen."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in line)


def main():
    cases = []
    for group, constructs in GROUPS.items():
        for name, construct in constructs.items():
            template, context = construct if isinstance(construct, tuple) else (construct, {})
            before = json.dumps(context)
            got = render(template, context)
            assert json.dumps(context) == before and " at 0x" not in str(got), (group, name, got)
            cases.append({"name": f"{group}: {name}", "template": template, "context": context} | got)
    assert len({case["name"] for case in cases}) == len(cases)
    OUT.mkdir(parents=True, exist_ok=True)
    text = "[\n" + ",\n".join(visible(json.dumps(case, ensure_ascii=False)) for case in cases) + "\n]\n"
    assert json.loads(text) == cases
    (OUT / "constructs.json").write_text(text, encoding="utf-8")
    print(f"{len(cases)} constructs, {sum('error' in case for case in cases)} of them errors")


main()
