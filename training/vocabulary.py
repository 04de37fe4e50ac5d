"""A smaller WordPiece vocabulary: the table of tokens is half of a MiniLM, and most of it is never used for English news.

Kept are the special tokens, all pieces of words (`##ing`), everything that is no letter (digits, punctuation, currency
signs), the words that the training texts use, and the more frequent words of general English: the vocabulary of BERT is
sorted by frequency, so these are the ones up to `WORD_RANK_MAX`. A word that is dropped is read in pieces; one in a script
that is dropped becomes `[UNK]`.
"""

import json
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORD_RANK_MAX = 16_000
# The most tokens of one text; what is longer is cut. A headline and a first paragraph fit.
TOKENS_MAX = 256


def base_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of the base weights, which neither pads nor cuts."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def pruned(tokenizer: Tokenizer, texts: Iterable[str]) -> tuple[Tokenizer, list[int]]:
    """The tokenizer with the smaller vocabulary, and for each of its ids the id in the old one."""
    definition = json.loads(tokenizer.to_str())
    old = definition["model"]["vocab"]
    seen = {index for encoding in tokenizer.encode_batch(list(texts)) for index in encoding.ids}
    kept = [token for token, index in sorted(old.items(), key=lambda item: item[1]) if is_kept(token, index, index in seen)]
    ids = [old[token] for token in kept]
    new = {token: index for index, token in enumerate(kept)}
    definition["model"]["vocab"] = new
    for added in definition["added_tokens"]:
        added["id"] = new[added["content"]]
    for special in definition["post_processor"].get("special_tokens", {}).values():
        special["ids"] = [new[token] for token in special["tokens"]]
    for key in ("cls", "sep"):
        if key in definition["post_processor"]:
            token = definition["post_processor"][key][0]
            definition["post_processor"][key] = [token, new[token]]
    smaller = Tokenizer.from_str(json.dumps(definition))
    smaller.enable_truncation(TOKENS_MAX)
    return smaller, ids


def is_kept(token: str, rank: int, seen: bool) -> bool:
    """Whether a token earns its row."""
    if token in SPECIAL or seen:
        return True
    if token.startswith("[unused"):
        return False
    characters = token.removeprefix("##")
    letters = [character for character in characters if unicodedata.category(character).startswith(("L", "M"))]
    if not letters:
        return True
    if not all(unicodedata.name(character, "").startswith("LATIN") for character in letters):
        return False
    if token.startswith("##"):
        return True
    return len(characters) == 1 or rank < WORD_RANK_MAX
