"""Chat rows with sums in several steps, about as long and as full of digits as those of GSM8K (Cobbe et al. 2021).

Usage: python3 scripts/make_sum_rows.py ROWS > rows.jsonl
"""
import json
import random
import sys

NAMES = ["Anna", "Ben", "Carla", "David", "Elif", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Keiko", "Luis"]
THINGS = ["pencils", "apples", "tickets", "stickers", "bottles of juice", "notebooks", "marbles", "loaves of bread"]
PLACES = ["the market", "a school fair", "the corner shop", "her uncle's farm", "the library sale", "a summer camp"]


def row(draw):
    """A question in which something happens two to seven times, and a reply that computes each time."""
    name, thing, place = draw.choice(NAMES), draw.choice(THINGS), draw.choice(PLACES)
    have = draw.randint(12, 480)
    question = [f"{name} works at {place} and has {have} {thing} at the start of the day."]
    reply = []
    for number in range(draw.choice([2, 2, 3, 3, 3, 4, 4, 5, 6, 7])):
        other = draw.choice([n for n in NAMES if n != name])
        boxes, each, share = draw.randint(2, 19), draw.randint(3, 48), draw.randint(2, 9)
        kind = draw.randrange(3)
        if kind == 0:
            question.append(f"Then {other} brings {boxes} boxes with {each} {thing} in each of them.")
            more = boxes * each
            reply.append(f"{other} brings {boxes}*{each}=<<{boxes}*{each}={more}>>{more} {thing}.")
            reply.append(f"So there are {have}+{more}=<<{have}+{more}={have + more}>>{have + more} of them now.")
            have += more
        elif kind == 1:
            gone = min(have, draw.randint(1, max(1, have // 3)))
            question.append(f"In the {['morning', 'afternoon', 'evening'][number % 3]} {gone} of the {thing} are sold to {other}.")
            reply.append(f"After {other} has bought {gone}, {have}-{gone}=<<{have}-{gone}={have - gone}>>{have - gone} {thing} are left.")
            have -= gone
        else:
            kept = have // share
            question.append(f"{name} divides what is there among {share} friends, keeps one part, and puts aside what cannot be divided.")
            reply.append(f"Each part is {have}/{share}, which is <<{have}//{share}={kept}>>{kept} with {have - kept * share} left over.")
            have = kept
    question.append(f"How many {thing} does {name} have in the end?")
    reply.append(f"#### {have}")
    messages = [{"role": "user", "content": " ".join(question)}, {"role": "assistant", "content": "\n".join(reply)}]
    return {"messages": messages}


draw = random.Random(7)
for _ in range(int(sys.argv[1])):
    print(json.dumps(row(draw)))
