"""Read the published files into rows, and split or filter them by content."""

from __future__ import annotations

import csv
import hashlib
import html
import io
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Final, NamedTuple

from compressor.errors import DataError

_LINE_BREAK: Final = re.compile(r"\s*<\s*(?:br|hr)\s*/?\s*>\s*", re.IGNORECASE)
_ENTITY: Final = re.compile(r"(&#?\w+)\s+;")
# After . ! or ?, with or without a closing quote or bracket, but not after a title or an initial.
_SENTENCE_END: Final = re.compile(
    r"(?:(?<=[.!?])|(?<=[.!?][\"')\]]))"
    r"(?<!\bMr\.)(?<!\bMs\.)(?<!\bDr\.)(?<!\bSt\.)(?<!\bMrs\.)(?<!\b[A-Z]\.)"
    r"\s+(?=[\"'(\[]?[A-Z0-9])"
)
_MIN_WORDS: Final = 5
_MAX_WORDS: Final = 60


class Review(NamedTuple):
    """A text and its class, 0 negative or 1 positive."""

    text: str
    label: int


class Pair(NamedTuple):
    """Two sentences and their similarity, 0 to 5."""

    sentence1: str
    sentence2: str
    score: float


class Tagged(NamedTuple):
    """A sentence as words, with one BIO tag each."""

    tokens: list[str]
    tags: list[str]


def reviews(data: bytes, source: str) -> list[Review]:
    """Return the reviews of one `source` of the combined file, in its order."""
    rows = csv.DictReader(io.StringIO(data.decode("utf-8"), newline=""))
    return [Review(row["text"].strip(), int(row["label"])) for row in rows if row["source"] == source]


def without_line_breaks(rows: Iterable[Review]) -> list[Review]:
    """Replace line-break tags, and any run of white space, by one space."""
    return [row._replace(text=" ".join(_LINE_BREAK.sub(" ", row.text).split())) for row in rows]


def vader_movies(data: bytes) -> list[Review]:
    """Return the movie snippets, positive where the mean of the 20 raters is above zero."""
    found = []
    for line in data.decode("utf-8").splitlines():
        if line:
            _, score, text = line.split("\t")
            found.append(Review(" ".join(html.unescape(text).split()), int(float(score) > 0)))
    return found


def sts(data: bytes) -> list[Pair]:
    """Return the sentence pairs; some lines carry two further columns, the sources' names."""
    found = []
    for line in data.decode("utf-8").split("\n"):
        if line.strip():
            *_, score, first, second = line.rstrip("\r").split("\t")[:7]
            found.append(Pair(first.strip(), second.strip(), float(score)))
    return found


def conll(data: bytes) -> list[Tagged]:
    """Return the sentences; a line is `word part-of-speech chunk tag`, blank between sentences."""
    found = []
    for block in re.split(r"\n\s*\n", data.decode("utf-8").replace("\r\n", "\n")):
        lines = [line.split(" ") for line in block.split("\n") if line.strip()]
        words = [(line[0], line[-1]) for line in lines if line[0] != "-DOCSTART-"]
        if words:
            found.append(Tagged([word for word, _ in words], [tag for _, tag in words]))
    return found


def by_content_hash(rows: Iterable[Review]) -> dict[str, list[Review]]:
    """Split by `split_of`, whatever the order."""
    splits: dict[str, list[Review]] = {"train": [], "validation": [], "test": []}
    for row in rows:
        splits[split_of(row.text)].append(row)
    return splits


def split_of(text: str) -> str:
    """Return a text's split by its content alone: 75 % train, 10 % validation, 15 % test, the same on every machine."""
    digest = hashlib.sha256(text.strip().lower().encode(errors="replace")).hexdigest()
    bucket = int(digest[:8], 16) % 100
    return "train" if bucket < 75 else "validation" if bucket < 85 else "test"


def distinct(rows: Iterable[Review]) -> list[Review]:
    """Drop repeats of a text, whatever its case; a text with two labels is a `DataError`."""
    first: dict[str, Review] = {}
    for row in rows:
        known = first.setdefault(row.text.strip().lower(), row)
        if known.label != row.label:
            raise DataError(f"the text {row.text[:60]!r}... carries two labels")
    return list(first.values())


def normalised(text: str) -> str:
    """Reduce a text to its letters and digits, so that copies in other typography are equal.

    Entities come first: one source writes `&amp;` or `&#8217 ;` where the other has the sign.
    """
    plain = html.unescape(_ENTITY.sub(r"\1;", text))
    return re.sub(r"[^a-z0-9]", "", plain.lower())


def unseen(rows: Iterable[Review], known: Iterable[Review]) -> list[Review]:
    """Return the rows whose normalised text is not among `known`."""
    seen = {normalised(row.text) for row in known}
    return [row for row in rows if normalised(row.text) not in seen]


def sentences(texts: Iterable[str], *, excluded: Collection[str]) -> list[str]:
    """Cut texts into distinct sentences of 5 to 60 words, in the order of their sha256."""
    seen = set(excluded)
    found = []
    for sentence in _cut(texts):
        key = normalised(sentence)
        if key not in seen and _MIN_WORDS <= len(sentence.split()) <= _MAX_WORDS:
            seen.add(key)
            found.append(sentence)
    return sorted(found, key=lambda sentence: hashlib.sha256(sentence.encode()).digest())


def _cut(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for sentence in _SENTENCE_END.split(text):
            yield sentence.strip()
