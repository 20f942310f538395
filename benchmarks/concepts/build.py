"""Builds ``visdiff/proposers/banks/wordnet.txt``: visual nouns of WordNet, broad and narrow ones.

A noun is taken if it is the first name and the first sense of a synset of animals, artefacts, food,
natural objects or plants, and if it is either a class of ImageNet-12k (as listed by timm) or among
the more frequent senses of WordNet's tagged texts. All of its words have to be in the vocabulary of
CLIP's tokenizer, which consists of the frequent words of captions of the web: "hamburger" is,
"lobscouse" is not.
"""

import argparse
import re
import sys
from importlib import resources
from pathlib import Path

from visdiff.torchvision_compat import ensure_torchvision

#: Numbers of WordNet's files of nouns (lexnames): animal, artefact, food, object, plant.
_FILES = {5, 6, 13, 17, 20}
#: Least number of occurrences in the tagged texts for a noun that is not in ImageNet-12k.
_MIN_TAGS = 3
#: Rarest token: the tokenizer's vocabulary is ordered by frequency.
_MAX_TOKEN = 40_000
#: Names that are also rude or derogatory words, sexual ones, and ones that no image shows.
# fmt: off
_LEFT_OUT = frozenset([
    "ass", "bitch", "boob", "cock", "dick", "domestic ass", "fag", "knockers", "prick", "pussy",
    "shag", "tit", "wild ass", "dildo", "condom", "vibrator", "nude", "essential", "agent",
    "variable", "unit cell", "oil-water interface", "dipole", "anion",
])
# fmt: on
_HEADER = """\
# Visual nouns of WordNet 3.1, built by benchmarks/concepts/build.py. One phrase per line.
# WordNet 3.1 Copyright 2011 by Princeton University. All rights reserved. See NOTICE.
"""


def imagenet_names() -> set[str]:
    """Returns the first name of each class of ImageNet-12k."""
    folder = resources.files("timm") / "data" / "_info"
    rows = (folder / "imagenet_synset_to_lemma.txt").read_text("utf-8").splitlines()
    names = {synset: names for synset, _, names in (row.partition("\t") for row in rows)}
    synsets = (folder / "imagenet12k_synsets.txt").read_text("utf-8").split()
    return {names[synset].split(",")[0].strip() for synset in synsets}


def senses(folder: Path) -> dict[tuple[str, str], tuple[int, int]]:
    """Returns (noun, synset) → number of the sense and its occurrences in the tagged texts."""
    found = {}
    for line in (folder / "index.sense").read_text("utf-8").splitlines():
        key, synset, number, tags = line.split()
        noun, _, rest = key.partition("%")
        if rest.startswith("1:"):
            found[noun, synset] = int(number), int(tags)
    return found


def visual_nouns(folder: Path) -> list[str]:
    """Returns the nouns of the bank, sorted."""
    ensure_torchvision()
    from open_clip.tokenizer import SimpleTokenizer

    vocabulary = SimpleTokenizer().encoder
    classes, known, nouns = imagenet_names(), senses(folder), set[str]()
    for line in (folder / "data.noun").read_text("utf-8").splitlines():
        if line.startswith(" "):
            continue  # the licence
        synset, file, _, _, word, *_ = line.split(" ")
        noun = word.replace("_", " ")
        number, tags = known[word.lower(), synset]
        if int(file) not in _FILES or number != 1 or noun != noun.lower() or noun in _LEFT_OUT:
            continue
        tokens = [vocabulary.get(f"{part}</w>", sys.maxsize) for part in re.split("[ -]", noun)]
        if max(tokens) <= _MAX_TOKEN and (noun in classes or tags >= _MIN_TAGS):
            nouns.add(noun)
    return sorted(nouns)


def main() -> None:
    """Writes the bank."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wordnet", type=Path, help="folder `dict` of WordNet 3.1")
    parser.add_argument("--out", type=Path, default=Path("visdiff/proposers/banks/wordnet.txt"))
    args = parser.parse_args()
    nouns = visual_nouns(args.wordnet)
    args.out.write_text(_HEADER + "\n".join(nouns) + "\n", "utf-8")
    sys.stdout.write(f"{len(nouns)} nouns\n")


if __name__ == "__main__":
    main()
