"""The commit protocol and its parts; everything that writes a folder goes through here.

`COMPRESSOR_FAILPOINT=<name>:<n>` kills the process at the n-th hit of a failpoint, which makes
each crash a deterministic test.
"""

from __future__ import annotations

from compressor.commit.files import (
    FAILPOINT_ENV,
    FAILPOINTS,
    disk_errors,
    failpoint,
    read_json,
    sha256_file,
    write_json_atomic,
    write_text,
    write_text_atomic,
)
from compressor.commit.folder import (
    add_file,
    commit,
    discard,
    open_partial,
    partial_folder,
    set_aside,
    sweep_leftovers,
)
from compressor.commit.lock import FolderLock, Waiting, any_held
from compressor.commit.manifest import MANIFEST, SCHEMA_VERSION, is_complete, verify

__all__ = [
    "FAILPOINTS",
    "FAILPOINT_ENV",
    "MANIFEST",
    "SCHEMA_VERSION",
    "FolderLock",
    "Waiting",
    "add_file",
    "any_held",
    "commit",
    "discard",
    "disk_errors",
    "failpoint",
    "is_complete",
    "open_partial",
    "partial_folder",
    "read_json",
    "set_aside",
    "sha256_file",
    "sweep_leftovers",
    "verify",
    "write_json_atomic",
    "write_text",
    "write_text_atomic",
]
