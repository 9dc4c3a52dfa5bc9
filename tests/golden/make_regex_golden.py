"""Which texts whole patterns match, by Python's re (ASCII classes). A line a pattern: {"pattern", "yes", "no"}. usage: make_regex_golden.py OUT_FILE"""
import json, random, re, sys

rnd = random.Random(7)
letters = "ab1 _é你😀\n-"


def atom(depth):
    k = rnd.randrange(9 if depth else 7)
    if k < 2: return re.escape(rnd.choice(letters)) if rnd.random() < .8 else rnd.choice(["\\n", "\\x61", "\\u4f60"])
    if k == 2: return "."
    if k == 3: return rnd.choice(["\\d", "\\w", "\\s", "\\D", "\\W", "\\S"])
    if k < 6:
        items = rnd.sample(["a", "b", "a-z", "0-9", "\\d", "\\w", "\\S", "é-你", "😀", "\\n", "\\-", "_", "!-~"], rnd.randint(1, 3))
        return "[" + rnd.choice(["", "^"]) + "".join(items) + "]"
    return ("(" if rnd.random() < .7 else "(?:") + alternatives(depth - 1) + ")" if depth else "b"


def sequence(depth):
    out = ""
    for _ in range(rnd.randint(0 if rnd.random() < .1 else 1, 4)):
        out += atom(depth) + rnd.choice(["", "", "", "?", "*", "+", "{2}", "{1,}", "{0,2}", "{2,3}", "*?", ""])
    return out


def alternatives(depth):
    return "|".join(sequence(depth) for _ in range(rnd.choice([1, 1, 2, 3])))


def text():
    return "".join(rnd.choice(letters) for _ in range(rnd.randint(0, 5)))


with open(sys.argv[1], "w") as f:
    n = 0
    while n < 250:
        p = alternatives(1)
        whole = re.compile(p, re.ASCII)
        tried = {text() for _ in range(150)}
        yes = [t for t in sorted(tried) if whole.fullmatch(t)]
        no = [t for t in sorted(tried) if not whole.fullmatch(t)]
        if not yes: continue
        n += 1
        f.write(json.dumps({"pattern": p, "yes": rnd.sample(yes, min(4, len(yes))), "no": rnd.sample(no, min(4, len(no)))}, ensure_ascii=False) + "\n")
