#!/usr/bin/env python3
"""Writes demo/train.jsonl and demo/test.jsonl: spoken-style home requests and the JSON command for each.

    python3 demo/make_data.py            write both files
    python3 demo/make_data.py --check    exit 1 unless the files are exactly what this script writes

The task is small on purpose: nine commands, values copied from the request, varied wording. A base model
chats about the request; a small adapter learns to answer with the command and nothing else.

What keeps test honest: a command (action and all its values) that occurs in train never occurs in test,
so no test answer can be remembered; only the skill of reading a request carries over.
"""
import itertools
import json
import random
import sys
from pathlib import Path

SEED = 20240
TRAIN_ROWS = 360
TEST_ROWS = 64
TEST_SHARE = 0.2  # of the commands, kept out of training

ROOMS = ["kitchen", "bedroom", "living room", "bathroom", "office", "garage", "hallway", "basement", "attic",
         "nursery"]
DEVICES = ["fan", "heater", "lamp", "tv", "radio", "oven", "dishwasher", "coffee maker", "humidifier", "air purifier",
           "vacuum", "washing machine"]
DOORS = ["front door", "back door", "garage door", "cellar door", "garden gate", "balcony door", "side door",
         "shed door", "patio door"]
MUSIC = ["jazz", "rock", "classical music", "blues", "pop", "folk", "techno", "reggae", "hip hop", "country",
         "opera", "soul"]
GOODS = ["apples", "bananas", "eggs", "lemons", "onions", "carrots", "tomatoes", "candles", "batteries", "light bulbs",
         "bread rolls", "pears", "avocados", "limes"]
TASKS = ["water the plants", "feed the cat", "call the bank", "take out the trash", "pay the rent", "walk the dog",
         "buy stamps", "book a table", "charge the car", "clean the filter", "send the invoice", "fold the laundry"]


def times():
    return [f"{hour:02}:{minute:02}" for hour in range(24) for minute in range(0, 60, 5)]


# action -> (the values each field may take, the ways of asking)
COMMANDS = {
    "set_timer": (
        {"minutes": list(range(2, 91))},
        ["set a timer for {minutes} minutes", "start a {minutes} minute timer", "count down {minutes} minutes",
         "let me know when {minutes} minutes are over", "I need a timer, {minutes} minutes",
         "give me a {minutes} minute countdown"],
    ),
    "set_alarm": (
        {"time": times()},
        ["wake me up at {time}", "set an alarm for {time}", "I have to get up at {time}", "alarm at {time}",
         "make sure I am awake at {time}", "put an alarm on {time}"],
    ),
    "remind": (
        {"task": TASKS, "time": times()},
        ["remind me to {task} at {time}", "at {time} I have to {task}, remind me",
         "don't let me forget to {task} at {time}", "send me a reminder at {time} to {task}",
         "I need to {task} at {time}, give me a nudge"],
    ),
    "light": (
        {"room": ROOMS, "state": ["on", "off"]},
        ["turn {state} the light in the {room}", "switch the {room} lights {state}", "{room} light {state}",
         "lights {state} in the {room}", "I want the lights in the {room} {state}"],
    ),
    "set_temperature": (
        {"room": ROOMS, "degrees": list(range(15, 28))},
        ["set the {room} to {degrees} degrees", "make it {degrees} degrees in the {room}",
         "I'd like {degrees} degrees in the {room}", "bring the {room} to {degrees} degrees",
         "the {room} should be at {degrees} degrees", "heat the {room} to {degrees}"],
    ),
    "power": (
        {"device": DEVICES, "state": ["on", "off"]},
        ["turn the {device} {state}", "switch {state} the {device}", "I want the {device} {state}",
         "power the {device} {state}", "can you put the {device} {state}"],
    ),
    "lock": (
        {"door": DOORS},
        ["lock the {door}", "is the {door} locked? If not, lock it", "make sure the {door} is locked",
         "secure the {door}", "I forgot to lock the {door}, do it for me"],
    ),
    "play": (
        {"music": MUSIC, "room": ROOMS},
        ["play some {music} in the {room}", "put on {music} in the {room}", "I want to hear {music} in the {room}",
         "{music} in the {room}", "start {music} on the {room} speaker", "how about some {music} in the {room}"],
    ),
    "buy": (
        {"item": GOODS, "quantity": list(range(2, 25))},
        ["add {quantity} {item} to the shopping list", "we need {quantity} {item}", "put {quantity} {item} on the list",
         "shopping list: {quantity} {item}", "remember to buy {quantity} {item}", "we are out of {item}, get {quantity}"],
    ),
}
OPENINGS = ["", "", "", "", "please ", "hey, ", "can you help? ", "okay, "]
ENDINGS = ["", "", "", "", ", thanks", ", thank you", ", if you don't mind"]


def reply(command):
    return json.dumps(command, separators=(",", ":"))


def request(rng, command):
    _, wordings = COMMANDS[command["action"]]
    text = rng.choice(OPENINGS) + rng.choice(wordings).format(**command) + rng.choice(ENDINGS)
    return text[0].upper() + text[1:] if rng.random() < 0.7 else text


def split(rng, action):
    """All commands of an action, those for training and those kept for the test."""
    fields, _ = COMMANDS[action]
    commands = [{"action": action, **dict(zip(fields, values))} for values in itertools.product(*fields.values())]
    rng.shuffle(commands)
    kept = max(2, round(TEST_SHARE * len(commands)))
    return commands[kept:], commands[:kept]


def rows(rng, count, commands):
    """Rows of every action in turn, so that each is as frequent as the others, however many values it has."""
    seen, result = set(), []
    for action in itertools.cycle(commands):
        if len(result) == count:
            rng.shuffle(result)
            return result
        text = None
        while text is None or text.lower() in seen:
            wanted = rng.choice(commands[action])
            text = request(rng, wanted)
        seen.add(text.lower())
        result.append((text, reply(wanted)))


def validate(train, test):
    for name, part in (("train", train), ("test", test)):
        requests = [text.lower() for text, _ in part]
        assert len(set(requests)) == len(requests), f"{name} repeats a request"
        for text, answer in part:
            for value in json.loads(answer).values():
                copied = str(value).lower() in text.lower()
                assert copied or value in COMMANDS, f"{answer} is not to be read off {text!r}"
    assert not {text.lower() for text, _ in train} & {text.lower() for text, _ in test}, "a request is in both"
    assert not {answer for _, answer in train} & {answer for _, answer in test}, "a command is in both"


def jsonl(part):
    lines = ({"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]}
             for text, answer in part)
    return "".join(json.dumps(line) + "\n" for line in lines)


def main():
    rng = random.Random(SEED)
    parts = {action: split(rng, action) for action in COMMANDS}
    train = rows(rng, TRAIN_ROWS, {action: part[0] for action, part in parts.items()})
    test = rows(rng, TEST_ROWS, {action: part[1] for action, part in parts.items()})
    validate(train, test)
    folder = Path(__file__).parent
    for name, part in (("train.jsonl", train), ("test.jsonl", test)):
        path, text = folder / name, jsonl(part)
        if "--check" in sys.argv[1:]:
            if not path.exists() or path.read_text() != text:
                sys.exit(f"error: demo/{name} is not what demo/make_data.py writes\nhint: python3 demo/make_data.py")
        else:
            path.write_text(text)
            print(f"demo/{name}: {len(part)} rows")


if __name__ == "__main__":
    main()
