"""The labelled texts: reading, cleaning, and a split for choosing settings.

`sentfin_*.csv` are headlines (SEntFiN 1.0), `tfns_*_clean.csv` tweets (Twitter Financial News Sentiment). The parts named
`dev` and `valid` are for the last look only: `training_texts` never opens them.
"""

import csv
import random
import re
import string
from dataclasses import dataclass
from pathlib import Path

LABELS = ["negative", "neutral", "positive"]
URL = re.compile(r"https?://\S+")


@dataclass(frozen=True)
class Example:
    """A text, the index of its label in LABELS, and whether it is a tweet."""

    text: str
    label: int
    tweet: bool


def read(path: Path, tweet: bool, links: bool = False) -> list[Example]:
    """All rows of a CSV with columns `text` and `label`; links are cut from tweets, unless they are to stay."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    clean = without_urls if tweet and not links else str.strip
    return [Example(clean(row["text"]), LABELS.index(row["label"]), tweet) for row in rows]


def without_urls(text: str) -> str:
    """The text without links, white space collapsed."""
    return " ".join(URL.sub(" ", text).split())


def training_texts(folder: Path) -> list[Example]:
    """Everything that may be trained on."""
    return read(folder / "sentfin_train.csv", tweet=False) + read(folder / "tfns_train_clean.csv", tweet=True)


def held_out_texts(folder: Path) -> dict[str, list[Example]]:
    """What is looked at once, at the end."""
    return {
        "sentfin_dev": read(folder / "sentfin_dev.csv", tweet=False),
        "tfns_valid": read(folder / "tfns_valid_clean.csv", tweet=True),
        "tfns_valid with links": read(folder / "tfns_valid_clean.csv", tweet=True, links=True),
    }


def split(examples: list[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Sets a share of the examples aside, the same for every run with that seed, headlines and tweets alike.

    Texts that are the same but for case and punctuation stay on one side.
    """
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(re.sub(r"\W+", " ", example.text.lower()).strip(), []).append(example)
    keys = sorted(groups)
    random.Random(seed).shuffle(keys)
    aside = round(len(keys) * share)
    flatten = lambda part: [example for key in part for example in groups[key]]
    return flatten(keys[aside:]), flatten(keys[:aside])


def with_made_up_url(text: str, dice: random.Random) -> str:
    """The text with a link as tweets carry one: the model must learn to pass over them."""
    letters = string.ascii_letters + string.digits
    return f"{text} https://t.co/{''.join(dice.choice(letters) for _ in range(10))}"
