"""The models and tables a user can name, and where each comes from."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from compressor.assets import packages as pins
from compressor.assets.packages import Package
from compressor.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """A model or a table as the user names it.

    `recipe` grows when the conversion changes, so that a cache of the old one is not used.
    """

    name: str
    title: str
    kind: Literal["model", "table"]
    packages: tuple[Package, ...]
    source: str
    licence: str
    note: str
    fallback: str
    recipe: int
    size_bytes: int
    research_only: bool = False
    weights_sha256: str = ""
    rows: Mapping[str, int] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.name}-r{self.recipe}"


E5_SMALL: Final = Asset(
    name="e5-small",
    title="e5-small (re-export)",
    kind="model",
    packages=(pins.E5_PACKAGE, pins.VOCAB_PACKAGE),
    source="ONNX export by one author, tokenizer from the vocabulary of bert-base-uncased",
    licence="MIT",
    note="the identity is the author's claim; the export lacks the pooler's bias, zeros are used",
    fallback="teacher.checkpoint=intfloat/e5-small  (Hub), or teacher.checkpoint=minilm-l6",
    recipe=1,
    size_bytes=134_500_000,
    weights_sha256="a511cac28311fadc42e8fa8b0db123c3d532b162ea393142bb1f5686007e2319",
)

MINILM_L6: Final = Asset(
    name="minilm-l6",
    title="all-MiniLM-L6-v2",
    kind="model",
    packages=(pins.MINILM_L6_PACKAGE,),
    source="copy of sentence-transformers/all-MiniLM-L6-v2, weights equal to the public ones",
    licence="Apache-2.0 (package: MIT)",
    note="position_ids dropped; tokenizer rebuilt without the fixed padding to 128 tokens",
    fallback="teacher.checkpoint=sentence-transformers/all-MiniLM-L6-v2  (from the Hub)",
    recipe=1,
    size_bytes=92_000_000,
    weights_sha256="1377e9af0ca0b016a9f2aa584d6fc71ab3ea6804fae21ef9fb1416e2944057ac",
)

MINILM_L3: Final = Asset(
    name="minilm-l3",
    title="paraphrase-MiniLM-L3-v2",
    kind="model",
    packages=(pins.MINILM_L3_PACKAGE, pins.VOCAB_PACKAGE),
    source="ONNX export of sentence-transformers/paraphrase-MiniLM-L3-v2",
    licence="Apache-2.0",
    note="the export has no pooler; ours is the identity, which lets the first token through tanh",
    fallback="teacher.checkpoint=sentence-transformers/paraphrase-MiniLM-L3-v2  (from the Hub)",
    recipe=1,
    size_bytes=71_000_000,
    weights_sha256="8e696a3288676a4d28a52d650ca0ca83c39d3348dab739cc5e9cbe8a370d4047",
)

MPNET_BASE: Final = Asset(
    name="mpnet-base",
    title="all-mpnet-base-v2",
    kind="model",
    packages=pins.MPNET_PACKAGES,
    source="copy of sentence-transformers/all-mpnet-base-v2, weights equal to the public ones",
    licence="Apache-2.0 (package: none stated)",
    note="five packages hold one zip; position_ids dropped",
    fallback="teacher.checkpoint=sentence-transformers/all-mpnet-base-v2  (from the Hub)",
    recipe=1,
    size_bytes=439_000_000,
    weights_sha256="0b3c8c717335c801abb15983036a6f1df4b6943fd6b93717969efd96d22eeec6",
)

ROTTEN_TOMATOES: Final = Asset(
    name="rotten_tomatoes",
    title="Rotten Tomatoes sentences (Pang and Lee 2005)",
    kind="table",
    packages=(pins.REVIEWS_PACKAGE, pins.VADER_PACKAGE),
    source="the 8,530 sentences of the public train split, split by content hash; "
    "extra test split `vader` from the movie snippets of Hutto and Gilbert (2014)",
    licence="MIT as published by the packages; for the sentences themselves no formal licence, used in research",
    note="labels of `vader` are the sign of a mean of 20 raters, about 3 % differ from the others",
    fallback="task.source=hub task.dataset=cornell-movie-review-data/rotten_tomatoes",
    recipe=1,
    size_bytes=2_000_000,
    rows={"train": 6_422, "validation": 824, "test": 1_284, "vader": 2_120},
)

IMDB: Final = Asset(
    name="imdb",
    title="IMDB reviews (Maas et al. 2011)",
    kind="table",
    packages=(pins.REVIEWS_PACKAGE,),
    source="the 25,000 reviews of the public train split, without repeats, split by content hash",
    licence="research, no formal licence (package: MIT)",
    note="line-break tags are replaced by a space",
    fallback="task.source=hub task.dataset=stanfordnlp/imdb",
    recipe=1,
    size_bytes=40_000_000,
    research_only=True,
    rows={"train": 18_710, "validation": 2_450, "test": 3_742},
)

IMDB_SENTENCES: Final = Asset(
    name="imdb_sentences",
    title="IMDB sentences, unlabelled (Maas et al. 2011)",
    kind="table",
    packages=(pins.REVIEWS_PACKAGE, pins.VADER_PACKAGE),
    source="sentences of 5 to 60 words from the train split of `imdb`, without repeats and without "
    "any held-out sentence of rotten_tomatoes, in the order of their hash",
    licence="research, no formal licence (package: MIT)",
    note="one split, `train`, one column, `text`",
    fallback="task.unlabelled=<a text, CSV, JSONL or Parquet file of your own>",
    recipe=1,
    size_bytes=30_000_000,
    research_only=True,
    rows={"train": 205_745},
)

STSB: Final = Asset(
    name="stsb",
    title="STS Benchmark (Cer et al. 2017)",
    kind="table",
    packages=(pins.STSB_PACKAGE,),
    source="train, development and test as published; the score runs from 0 to 5",
    licence="mixed, CC BY-SA (package: MIT)",
    note="the package's own loader returns the development set as test; this one does not use it",
    fallback="task.source=hub task.dataset=nyu-mll/glue task.subset=stsb",
    recipe=1,
    size_bytes=1_500_000,
    rows={"train": 5_749, "validation": 1_500, "test": 1_379},
)

CONLL2003: Final = Asset(
    name="conll2003",
    title="CoNLL-2003 English named entities (Tjong Kim Sang and De Meulder 2003)",
    kind="table",
    packages=(pins.CONLL_PACKAGE,),
    source="train, testa and testb as published, nine BIO tags",
    licence="Reuters text: research only, never to be passed on (package: MIT)",
    note="document marks are left out",
    fallback="task.source=file task.train=<your file> task.test=<your file>",
    recipe=1,
    size_bytes=4_000_000,
    research_only=True,
    rows={"train": 14_041, "validation": 3_250, "test": 3_453},
)

ASSETS: Final[Mapping[str, Asset]] = {
    asset.name: asset
    for asset in (
        E5_SMALL,
        MINILM_L6,
        MINILM_L3,
        MPNET_BASE,
        ROTTEN_TOMATOES,
        IMDB,
        IMDB_SENTENCES,
        STSB,
        CONLL2003,
    )
}


def model_names() -> tuple[str, ...]:
    """Return the names that `fetch_model` takes."""
    return tuple(name for name, asset in ASSETS.items() if asset.kind == "model")


def table_names() -> tuple[str, ...]:
    """Return the names that `fetch_table` takes."""
    return tuple(name for name, asset in ASSETS.items() if asset.kind == "table")


def find(name: str, kind: Literal["model", "table"] | None = None) -> Asset:
    """Return the asset of that name, or raise a `ConfigError` that lists the names."""
    asset = ASSETS.get(name)
    if asset is not None and kind in (None, asset.kind):
        return asset
    names = [other for other, asset in ASSETS.items() if kind in (None, asset.kind)]
    close = difflib.get_close_matches(name, names, n=1)
    raise ConfigError(
        f"no packaged {kind or 'asset'} is called {name!r}",
        allowed=", ".join(names),
        hint=close[0] if close else "",
    )


def describe(name: str) -> str:
    """Say in one line what an asset is, where it comes from and under which terms."""
    asset = find(name)
    packages = ", ".join(package.title for package in asset.packages[:2])
    if len(asset.packages) > 2:
        packages = f"{asset.packages[0].title} and {len(asset.packages) - 1} more"
    return (
        f"{asset.title}: from {packages}; {asset.source}; licence: {asset.licence}; "
        f"note: {asset.note}; should it vanish: {asset.fallback}"
    )


def require_licence(asset: Asset, *, accepted: bool) -> None:
    """Refuse data that is published for research only until the user has said yes."""
    if asset.research_only and not accepted:
        raise ConfigError(
            f"{asset.name} is published for research only: {asset.licence}",
            allowed="use within those terms, stated once by you",
            hint="task.accept_licence=true",
        )
