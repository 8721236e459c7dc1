#!/usr/bin/env python3
"""Runs OpenAI's own Python client against a server that is running: chat, streams, tools, JSON schemas, log-probabilities,
embeddings, errors. Needs `pip install openai`.

    lorafit serve --model M --adapter pirate=DIR &
    python3 scripts/check_openai_client.py http://127.0.0.1:8080 [--key KEY]
"""

import argparse
import json
import math

import openai


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("server", help="address of the server, as in http://127.0.0.1:8080")
    arguments.add_argument("--key", default="none", help="key of the server, if it has one")
    arguments = arguments.parse_args()
    client = openai.OpenAI(base_url=f"{arguments.server}/v1", api_key=arguments.key, max_retries=0)

    models = [model.id for model in client.models.list()]
    print("models:", ", ".join(models))
    assert client.models.retrieve(models[-1]).id == models[-1]
    messages = [{"role": "user", "content": "Write a short greeting."}]
    for model in [*models, *(f"{model}:0.5" for model in models[1:2])]:
        chat(client, model, messages)
    model = models[0]
    completion(client, model)
    form(client, model)
    tools(client, model, messages)
    embeddings(client, model)
    errors(client, model, messages)
    print("all of it is well")


def chat(client: openai.OpenAI, model: str, messages: list) -> None:
    """A conversation, whole and as a stream, with log-probabilities."""
    asked = dict(model=model, messages=messages, temperature=0, max_tokens=24)
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    choice = whole.choices[0]
    print(f"{model}: {choice.message.content!r} ({choice.finish_reason}, {whole.usage.completion_tokens} tokens)")
    assert choice.message.role == "assistant" and choice.finish_reason in ("stop", "length")
    assert len(choice.logprobs.content) == whole.usage.completion_tokens
    for token in choice.logprobs.content:
        assert token.logprob <= 0 and len(token.top_logprobs) == 2
        assert token.logprob == token.top_logprobs[0].logprob
    pieces = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert pieces[0].choices[0].delta.role == "assistant"
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert text == choice.message.content, (text, choice.message.content)
    assert pieces[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert pieces[-2].choices[0].finish_reason == choice.finish_reason
    several = client.chat.completions.create(**(asked | {"temperature": 1.0}), n=3, seed=1, stop=["\n"])
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    assert all("\n" not in choice.message.content for choice in several.choices)


def completion(client: openai.OpenAI, model: str) -> None:
    """A text that is continued."""
    asked = dict(model=model, prompt="The capital of France is", temperature=0, max_tokens=8)
    whole = client.completions.create(**asked, logprobs=1)
    print("completion:", repr(whole.choices[0].text), whole.choices[0].logprobs.tokens)
    text = "".join(piece.choices[0].text for piece in client.completions.create(**asked, stream=True))
    assert text == whole.choices[0].text


def form(client: openai.OpenAI, model: str) -> None:
    """An answer by a JSON schema."""
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "large": {"type": "boolean"}},
        "required": ["city", "large"],
        "additionalProperties": False,
    }
    messages = [{"role": "user", "content": "Name a city, as JSON."}]
    format = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema, "strict": True}}
    answer = client.chat.completions.create(
        model=model, messages=messages, response_format=format, max_tokens=100, temperature=0
    )
    value = json.loads(answer.choices[0].message.content)
    print("JSON schema:", value)
    assert isinstance(value["city"], str) and isinstance(value["large"], bool) and len(value) == 2
    answer = client.chat.completions.create(
        model=model, messages=messages, max_tokens=20, extra_body={"regex": "[A-Z][a-z]{2,8}"}
    )
    print("regex:", answer.choices[0].message.content)


def tools(client: openai.OpenAI, model: str, messages: list) -> None:
    """Calls of tools, where the model's template has a place for them."""
    parameters = {"type": "object", "properties": {"minutes": {"type": "integer"}}, "required": ["minutes"],
                  "additionalProperties": False}
    tool = {"type": "function", "function": {"name": "set_timer", "description": "Sets a timer", "parameters": parameters}}
    messages = [{"role": "user", "content": "Set a timer for ten minutes."}]
    asked = dict(model=model, messages=messages, tools=[tool], max_tokens=60, temperature=0)
    try:
        free = client.chat.completions.create(**asked)
    except openai.BadRequestError as error:
        assert "no place for" in str(error), error
        print("tools: the model's chat template has no place for them, and the server says so")
        return
    print("tools, auto:", free.choices[0].finish_reason, free.choices[0].message.tool_calls or free.choices[0].message.content)
    held = client.chat.completions.create(**asked, tool_choice="required")
    call = held.choices[0].message.tool_calls[0]
    print("tools, required:", call.function.name, call.function.arguments)
    assert held.choices[0].finish_reason == "tool_calls" and call.function.name == "set_timer"
    assert isinstance(json.loads(call.function.arguments)["minutes"], int)
    pieces = list(client.chat.completions.create(**asked, tool_choice="required", stream=True))
    calls = [piece.choices[0].delta.tool_calls for piece in pieces if piece.choices[0].delta.tool_calls]
    assert calls[0][0].function.arguments == call.function.arguments
    # What the tool said goes back to the model.
    messages += [held.choices[0].message.model_dump(exclude_none=True),
                 {"role": "tool", "tool_call_id": call.id, "content": "the timer is set"}]
    last = client.chat.completions.create(**(asked | {"messages": messages}), tool_choice="none")
    print("tools, answered:", repr(last.choices[0].message.content))


def embeddings(client: openai.OpenAI, model: str) -> None:
    """Vectors of texts; the client asks for base64 unless it is told otherwise."""
    texts = ["a cat sits on the mat", "the kitten is on the rug", "interest rates rose by a quarter"]
    found = [item.embedding for item in client.embeddings.create(model=model, input=texts).data]
    plain = client.embeddings.create(model=model, input=texts, encoding_format="float").data
    for vector, same in zip(found, plain):
        assert abs(math.hypot(*vector) - 1) < 1e-4
        assert max(abs(a - b) for a, b in zip(vector, same.embedding)) < 1e-6
    near, far = (sum(a * b for a, b in zip(found[0], other)) for other in found[1:])
    print(f"embeddings: {len(found[0])} numbers; cat and kitten {near:.3f}, cat and rates {far:.3f}")


def errors(client: openai.OpenAI, model: str, messages: list) -> None:
    """Errors are those that the client knows."""
    for error, asked in [
        (openai.NotFoundError, dict(model="nobody", messages=messages)),
        (openai.BadRequestError, dict(model=model, messages=[])),
        (openai.BadRequestError, dict(model=model, messages=messages, extra_body={"mirostat": 2})),
        (openai.BadRequestError, dict(model=model, messages=messages, max_tokens=10**9)),
    ]:
        try:
            client.chat.completions.create(**asked)
        except error as found:
            print(f"{error.__name__}: {found.body['message']}")
        else:
            raise AssertionError(f"no {error.__name__} of {asked}")


if __name__ == "__main__":
    main()
