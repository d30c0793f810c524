"""Build the reference half of the distillation corpus from open text that Debian packages.

    python corpus.py --root / --out reference.tsv

Reads dictionaries, manuals and package descriptions below ``--root`` (an unpacked set of packages
is enough; README.md names them) and writes one ``source<TAB>text`` per line, without repeats.
"""

# ruff: noqa: T201 -- a maintainer's script prints
from __future__ import annotations

import argparse
import gzip
import html
import random
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

MAX_CHARACTERS = 600  # about 128 word pieces
LATIN = re.compile(r"[\x20-\x7e£€°–—‘’“”•…]+")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
TAG = re.compile(r"<[^>]+>")


def clean(text: str) -> str:
    """One line of Latin text; empty where something else is in it or it is all markup."""
    text = " ".join(text.split())
    if not LATIN.fullmatch(text) or sum(map(str.isalpha, text)) * 2 < len(text):
        return ""
    return text[:MAX_CHARACTERS]


def pieces(paragraph: str, rng: random.Random) -> Iterator[str]:
    """A paragraph cut into runs of one to four sentences, so that every length occurs."""
    sentences = SENTENCE_END.split(" ".join(paragraph.split()))
    at = 0
    while at < len(sentences):
        size = rng.choice((1, 1, 1, 2, 2, 3, 4))
        yield " ".join(sentences[at : at + size])
        at += size


def wordnet(root: Path) -> Iterator[str]:
    """Lemmas, glosses, and examples of WordNet's synonym sets."""
    for part in ("noun", "verb", "adj", "adv"):
        for line in (root / f"usr/share/wordnet/data.{part}").read_text("utf-8").splitlines():
            if line.startswith("  ") or " | " not in line:
                continue
            head, gloss = line.split(" | ", 1)
            fields = head.split()
            lemmas = [fields[4 + 2 * i] for i in range(int(fields[3], 16))]
            lemmas = [re.sub(r"\(\w+\)$", "", x).replace("_", " ") for x in lemmas]
            meaning, *examples = gloss.split('; "')
            yield from lemmas
            yield meaning
            yield f"{lemmas[0]}: {meaning}"
            yield f"{', '.join(lemmas)} - {meaning}"
            yield from (x.rstrip('" ') for x in examples)


def packages() -> Iterator[str]:
    """Debian package names with their one-line descriptions, as apt knows them."""
    dump = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=True)
    name = ""
    for line in dump.stdout.splitlines():
        if line.startswith("Package: "):
            name = line[9:]
        elif line.startswith("Description: "):
            summary = line[13:]
            yield summary
            yield f"{name.replace('-', ' ')} {summary}"
            yield f"{name}: {summary}"


def dictionary(path: Path, rng: random.Random) -> Iterator[str]:
    """Entries of a dictd dictionary: paragraphs without their etymologies and pronunciations."""
    text = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
    text = re.sub(r"\[[^\]\n]*(\n[^\]\n]*)?\]|[{}]|\\[^\\\n]*\\|<[^>\n]*>", "", text)
    for paragraph in re.split(r"\n\s*\n", text):
        joined = " ".join(paragraph.split())
        joined = re.sub(r"^(\d+\.|\([a-z]\))\s+|\s--\s?[A-Z][\w. ()]*$", "", joined)
        yield from pieces(joined, rng)


def fortunes(folder: Path, rng: random.Random) -> Iterator[str]:
    """Sayings and short dialogues."""
    for path in sorted(folder.iterdir()):
        if path.suffix in {".dat", ".u8"}:
            continue
        for saying in path.read_text("utf-8", "replace").split("\n%\n"):
            yield from pieces(saying.split("\t\t--")[0], rng)


def markup(paths: Iterable[Path], rng: random.Random) -> Iterator[str]:
    """Headings, paragraphs, list items and table cells of HTML or Mallard pages."""
    block = re.compile(
        r"<(p|h[1-6]|li|td|th|dt|dd|title|desc|item)\b[^>]*>(.*?)(?=</?(?:p|h[1-6]|li|td|th|dt|dd|"
        r"title|desc|item|ul|ol|table|div|section|pre|steps|list)\b)",
        re.S,
    )
    for path in paths:
        for match in block.finditer(path.read_text("utf-8", "replace")):
            yield from pieces(html.unescape(TAG.sub(" ", match.group(2))), rng)


def manuals(paths: Iterable[Path], rng: random.Random) -> Iterator[str]:
    """Prose of manual pages: the name line and the paragraphs without requests."""
    for path in paths:
        try:
            text = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
        except OSError:
            continue
        for paragraph in re.split(r"\n\.[A-Za-z\"\\].*", text):
            prose = re.sub(r"\\f[A-Z]|\\&|\\(?=-)", "", paragraph).replace("\\-", "-")
            if "\\" not in prose:
                yield from pieces(prose, rng)


def sources(root: Path, rng: random.Random) -> dict[str, Iterator[str]]:
    """Every source by its name; one that is not installed yields an error when it is read."""
    share = root / "usr/share"

    def pages(pattern: str) -> list[Path]:
        return sorted(share.glob(pattern))

    dicts = share / "dictd"
    return {
        "wordnet": wordnet(root),
        "packages": packages(),
        "gcide": dictionary(dicts / "gcide.dict.dz", rng),
        "foldoc": dictionary(dicts / "foldoc.dict.dz", rng),
        "jargon": dictionary(dicts / "jargon.dict.dz", rng),
        "devil": dictionary(dicts / "devil.dict.dz", rng),
        "fortunes": fortunes(share / "games/fortunes", rng),
        "gnome-help": markup(pages("help/C/**/*.page"), rng),
        "libreoffice-help": markup(pages("libreoffice/help/en-US/text/**/*.html"), rng),
        "gimp-help": markup(pages("gimp/2.0/help/en/*.html"), rng),
        "postgresql-doc": markup(pages("doc/postgresql-doc-15/html/*.html"), rng),
        "python-doc": markup(pages("doc/python3.11/html/**/*.html"), rng),
        "debian-handbook": markup(pages("doc/debian-handbook/html/en-US/*.html"), rng),
        "debian-faq": markup(pages("doc/debian/FAQ/*.html"), rng),
        "manpages": manuals(pages("man/man[1-8]/*.gz"), rng),
        "words": iter((share / "dict/american-english").read_text("utf-8").split()),
    }


# At most so many texts of one source: old prose and manuals shall not outweigh everyday words.
CAPS = {
    "gcide": 90_000,
    "libreoffice-help": 40_000,
    "manpages": 30_000,
    "packages": 120_000,
    "postgresql-doc": 25_000,
    "python-doc": 25_000,
    "wordnet": 360_000,
    "words": 30_000,
}


def main() -> None:
    """Write the corpus, shuffled with a fixed seed, and print how many texts each source gave."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("/"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    seen: set[str] = set()
    lines: list[str] = []
    for name, texts in sources(options.root, rng).items():
        kept = [x for x in dict.fromkeys(map(clean, texts)) if x and x not in seen]
        if len(kept) > CAPS.get(name, len(kept)):
            kept = rng.sample(kept, CAPS[name])
        seen.update(kept)
        lines += [f"{name}\t{x}" for x in kept]
    rng.shuffle(lines)
    options.out.write_text("\n".join(lines) + "\n", "utf-8")
    print(dict(Counter(x.split("\t", 1)[0] for x in lines)), len(lines))


if __name__ == "__main__":
    main()
