"""Write requests to assistants and descriptions of tools from a grammar of frames and slots.

    python grammar.py --root / --count 900000 --out requests.tsv

``frames.txt`` holds one request frame per line, ``slots.txt`` what its ``{slots}`` stand for, and
``tools.txt`` the words of tools' names and descriptions. ``(a|b|)`` picks one; nouns, verbs and
feelings come from WordNet, places and moneys from iso-codes and the time-zone names. Writes
``source<TAB>text`` lines: requests, statements, longer tasks, tools' names and descriptions.
"""

# ruff: noqa: T201 -- a maintainer's script prints
from __future__ import annotations

import argparse
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
SLOT = re.compile(r"\{(\w+)\}")
CHOICE = re.compile(r"\(([^()]*)\)")
# WordNet's lexicographer files that make good slots (lexnames(5WN)).
CATEGORIES = {
    4: "act",
    5: "beast",
    6: "artifact",
    10: "communication",
    12: "feeling_noun",
    13: "food",
    18: "person",
    20: "flora",
    21: "possession",
    26: "state_noun",
}
FEELINGS = (
    *("happy", "sad", "tired", "bored", "angry"),
    *("lonely", "excited", "nervous", "stressed", "worried"),
)
QUESTIONS = {
    *("what", "how", "who", "when", "where", "which", "why"),
    *("are", "do", "doe", "did", "can", "could"),  # "does" without its s
}
ILLNESS = re.compile(r"\b(disease|infection|inflammation|pain|symptom|disorder)\b")


def wordnet_slots(root: Path) -> dict[str, list[str]]:
    """Nouns by category, verbs, states and examples; only words that were counted in use."""
    folder = root / "usr/share/wordnet"
    used: set[str] = set()
    for line in (folder / "cntlist.rev").read_text("utf-8").splitlines():
        key, _, count = line.split()
        if int(count) >= 2:
            used.add(key.split("%")[0])
    slots: dict[str, list[str]] = {
        "noun": [],
        "verb": [],
        "state": [],
        "example": [],
        "illness": [],
    }
    for part in ("noun", "verb", "adj"):
        for line in (folder / f"data.{part}").read_text("utf-8").splitlines():
            if line.startswith("  ") or " | " not in line:
                continue
            head, gloss = line.split(" | ", 1)
            fields = head.split()
            lemma = re.sub(r"\(\w+\)$", "", fields[4])
            word = lemma.replace("_", " ")
            slots["example"] += re.findall(r'"([^"]{12,70})"', gloss)
            if part == "noun" and word.islower():
                category = CATEGORIES.get(int(fields[1]), "other")
                if ILLNESS.search(gloss) and int(fields[1]) == 26 and len(word) < 18:
                    slots["illness"].append(word)
                if lemma not in used:
                    # Compounds of common words are still everyday language.
                    if category in {"artifact", "act"} and word.count(" ") == 1:
                        slots.setdefault(category, []).append(word)
                    continue
                slots.setdefault(category, []).append(word)
                slots["noun"].append(word)
            elif part == "verb" and lemma in used:
                slots["verb"].append(word)
            elif part == "adj" and lemma in used:
                slots["state"].append(word)
    slots["feeling"] = [*FEELINGS]
    slots["feeling"] += [x for x in slots["state"] if x.endswith(("ed", "ful", "less"))]
    return slots


def name_slots(root: Path) -> dict[str, list[str]]:
    """Cities, countries, moneys and languages."""
    share = root / "usr/share"
    zones = [p for p in (share / "zoneinfo").glob("[AE]*/[A-Z]*") if p.is_file()]
    codes = share / "iso-codes/json"

    def names(standard: str) -> list[str]:
        rows = json.loads((codes / f"iso_{standard}.json").read_text("utf-8"))[standard]
        return [re.split(r"[;,(]", x.get("common_name", x["name"]))[0].strip() for x in rows]

    return {
        "zone": sorted({p.name.replace("_", " ") for p in zones}),
        "nation": names("3166-1"),
        "moneys": names("4217"),
        "tongue": names("639-2"),
    }


def read_slots(path: Path) -> dict[str, list[str]]:
    """``name: item | item`` lines; ``-`` is the empty item."""
    lines = path.read_text("utf-8").splitlines()
    parts = (line.split(":", 1) for line in lines)
    return {
        name: ["" if x == "-" else x for x in items.strip().split(" | ")] for name, items in parts
    }


class Grammar:
    """Expands frames with a random generator of its own."""

    def __init__(self, root: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.slots = wordnet_slots(root) | name_slots(root)
        self.slots |= read_slots(HERE / "slots.txt") | read_slots(HERE / "tools.txt")
        self.slots["verbname"] = [x.split("/")[0] for x in self.slots["verbs"]]
        lines = (HERE / "frames.txt").read_text("utf-8").splitlines()
        frames = [x for x in lines if x and not x.startswith("# ")]
        # A bar outside parentheses parts frames that share a line.
        self.frames = [y for x in frames for y in re.split(r" \| (?![^(]*\))", x)]

    def expand(self, text: str) -> str:
        """The text with its choices and slots filled in, until none is left."""
        while CHOICE.search(text):
            text = CHOICE.sub(lambda m: self.rng.choice(m.group(1).split("|")), text)
        while SLOT.search(text):
            text = SLOT.sub(lambda m: self.rng.choice(self.slots[m.group(1)]), text)
            text = CHOICE.sub(lambda m: self.rng.choice(m.group(1).split("|")), text)
        text = re.sub(r"\b(a) (?=[aeiou])", "an ", text)
        return " ".join(text.split())

    def request(self) -> str:
        """One request in one of the ways people type."""
        return self.style(self.expand(self.rng.choice(self.frames)))

    def style(self, text: str) -> str:
        """Case, punctuation, courtesy and slips of the finger."""
        rng = self.rng
        if rng.random() < 0.12:
            text = rng.choice(("hey ", "hi, ", "ok ", "so ", "um ", "well, ", "hello, ")) + text
        if rng.random() < 0.12:
            ends = (" please", " thanks", " for me", " asap", ", thank you", " right now", " again")
            text += rng.choice(ends)
        if rng.random() < 0.45:
            text = text[0].upper() + text[1:]
            text = re.sub(r"\bi\b", "I", text)
            text += rng.choice((".", "", "?" if self.asks(text) else ".", "!"))
        elif rng.random() < 0.3:
            text = text.lower().replace("'", "")
        if rng.random() < 0.08:
            text = self.slip(text)
        return text

    @staticmethod
    def asks(text: str) -> bool:
        """Whether the text begins like a question."""
        first = text.split(" ", 1)[0].lower().rstrip("'s")
        return first in QUESTIONS

    def slip(self, text: str) -> str:
        """The text with one letter dropped, doubled or swapped."""
        at = self.rng.randrange(len(text))
        kind = self.rng.randrange(3)
        if kind == 0:
            return text[:at] + text[at + 1 :] or text
        if kind == 1:
            return text[:at] + text[at : at + 1] * 2 + text[at + 1 :]
        return text[:at] + text[at + 1 : at + 2] + text[at : at + 1] + text[at + 2 :]

    def statement(self) -> str:
        """A remark or a need rather than an order."""
        return self.style(self.expand("{statement}"))

    def task(self) -> str:
        """Two to six sentences: context, then what is wanted, step by step."""
        rng = self.rng
        openings = (
            "I am a {profession} at {company} in {city}.",
            "I'm planning a {event} {when}.",
            "{statement}.",
            "We are {small} people and our budget is {money}.",
            "My {kid} needs a {product}.",
            "I have been working on a {document} about {topic}.",
            "",
            "",
        )
        joins = (
            " and then ",
            ". Then ",
            ", and ",
            ". Also, ",
            ". After that, ",
            "; ",
            ". Finally, ",
        )
        text = self.expand(rng.choice(openings)) + " " + self.expand(rng.choice(self.frames))
        for _ in range(rng.choice((1, 1, 2, 2, 3, 5))):
            text += rng.choice(joins) + self.expand(rng.choice(self.frames))
        sentences = [x[:1].upper() + x[1:] for x in text.strip().split(". ")]
        return ". ".join(sentences)[:600] + rng.choice((".", "", "?"))

    def tool(self) -> str:
        """A tool's name, its description, or both, as catalogues write them."""
        rng = self.rng
        if rng.random() < 0.35:
            name, text = self.expand("{genericname}"), self.expand("{sell}")
        else:
            verb, verbs = rng.choice(self.slots["verbs"]).split("/")
            thing = rng.choice(
                ("{objects}", "{objects}s", "{noun} {objects}", "{adjective} {objects}")
            )
            thing = self.expand(thing)
            tail = self.expand(rng.choice(("", "{purpose}", "{purpose}", "{purpose} {purpose}")))
            article = "" if thing.endswith("s") else rng.choice(("a ", "the ", "an existing ", ""))
            name = f"{verb} {thing}"
            text = f"{rng.choice((verb.capitalize(), verbs))} {article}{thing} {tail}".strip() + "."
            text += " " + self.expand("{returns}")
        text = text.strip()
        way = rng.random()
        if way < 0.2:
            return rng.choice((name, name.lower(), name.title()))
        if way < 0.35:
            return text
        return (
            name + rng.choice((" ", ": ", " - ")) + (text if rng.random() < 0.8 else text.lower())
        )

    def fragment(self) -> str:
        """A few words, as in search boxes, intents and slot values."""
        ways = (
            "{noun} {noun}|{verb} {noun}|{noun}|{verb} {artifact}|{artifact} {noun}|{state} {noun}"
        )
        ways += "|{act}|{verb}|{noun} in {place}|{topic} {document}|{product} {metric}|{app} {noun}"
        return self.expand(self.rng.choice(ways.split("|")))


def main() -> None:
    """Write distinct texts of every kind and print how many of each there are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("/"))
    parser.add_argument("--count", type=int, default=900_000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=2)
    options = parser.parse_args()
    grammar = Grammar(options.root, options.seed)
    kinds: dict[str, tuple[float, Callable[[], str]]] = {
        "request": (0.56, grammar.request),
        "statement": (0.06, grammar.statement),
        "task": (0.10, grammar.task),
        "tool": (0.20, grammar.tool),
        "fragment": (0.08, grammar.fragment),
    }
    names = list(kinds)
    weights = [share for share, _ in kinds.values()]
    seen: set[str] = set()
    counts: Counter[str] = Counter()
    with options.out.open("w", encoding="utf-8") as out:
        while len(seen) < options.count:
            kind = grammar.rng.choices(names, weights)[0]
            text = kinds[kind][1]()
            if text.isascii() and text not in seen:
                seen.add(text)
                counts[kind] += 1
                out.write(f"{kind}\t{text}\n")
    print(len(grammar.frames), "frames;", dict(counts))


if __name__ == "__main__":
    main()
