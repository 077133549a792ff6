"""What leaves the checkout: our own wheel and somebody else's plugin, each built, installed and run from another folder."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
THIRD_PARTY = ROOT / "tests" / "fixtures" / "third_party"


def build(project: Path, out: Path) -> Path:
    """Build a wheel with the project's own back end."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=project, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def has_pip() -> bool:
    try:  # not importlib.util.find_spec, which lets setuptools rearrange this process
        return bool(version("pip"))
    except PackageNotFoundError:
        return False


def install(wheel: Path, site: Path) -> Path:
    """Install a wheel into a folder of its own; where there is no pip, unpack it, which is all that pip does with it."""
    if has_pip():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
        subprocess.run([*command, str(wheel)], check=True, capture_output=True)
        return site
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def run(site: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site), "COMPRESSOR_CACHE": str(cwd / "cache")}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def own_site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    return install(build(ROOT, folder / "dist"), folder / "site")


@pytest.fixture(scope="module")
def plugin_site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guest")
    return install(build(THIRD_PARTY, folder / "dist"), folder / "site")


def test_the_wheel_puts_only_our_names_into_site_packages(own_site) -> None:
    names = {p.name for p in own_site.iterdir() if not p.name.endswith(".dist-info")} - {"bin"}
    assert names == {"compressor", "compressor_plugins"}
    assert (own_site / "compressor" / "conf" / "config.yaml").is_file()
    page = own_site / "compressor" / "report" / "html"
    assert {p.name for p in page.iterdir()} >= {"style.css", "plots.css", "script.js"}


def test_the_wheel_runs_from_another_folder(own_site, tmp_path) -> None:
    ended = run(own_site, tmp_path, "-c", "import compressor; print(compressor.__file__)")
    assert ended.stdout.startswith(str(own_site)), "the checkout was imported instead of the wheel"
    shown = run(own_site, tmp_path, "-m", "compressor", "--help")
    assert shown.returncode == 0, shown.stderr
    assert "distill" in shown.stdout and "e5_small" in shown.stdout
    composed = run(own_site, tmp_path, "-m", "compressor", "--cfg", "job", "method=distill", "student.layers=6")
    assert composed.returncode == 0, composed.stderr
    assert "layers: 6" in composed.stdout and "temperature:" in composed.stdout


def test_a_third_party_method_is_listed_and_composes(plugin_site, tmp_path) -> None:
    shown = run(plugin_site, tmp_path, "-m", "compressor", "--help")
    assert "keep_largest" in shown.stdout and "[keep-largest 1.2.3]" in shown.stdout
    arguments = ("--cfg", "job", "method=keep_largest", "method.keep_largest.density=0.25")
    composed = run(plugin_site, tmp_path, "-m", "compressor", *arguments)
    assert composed.returncode == 0, composed.stderr
    assert "density: 0.25" in composed.stdout


def test_a_third_party_method_passes_the_conformance_suite(plugin_site, tmp_path) -> None:
    script = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "from pathlib import Path\n"
        "from compressor.testing import check_method\n"
        "from keep_largest import KeepLargest, KeepLargestConfig\n"
        "check_method(KeepLargest(KeepLargestConfig()), Path('checks'))\n"
        "print('all promises kept')\n"
    )
    ended = run(plugin_site, tmp_path, "-c", script)
    assert "all promises kept" in ended.stdout, ended.stderr[-3000:]


def test_a_broken_plugin_is_reported_and_harms_nobody(tmp_path) -> None:
    site = tmp_path / "site"
    info = site / "broken_guest-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-guest\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[compressor.methods]\nbroken = broken_guest:Method\n")
    (site / "broken_guest.py").write_text("import a_module_that_is_not_there\n")
    shown = run(site, tmp_path, "-m", "compressor", "--help")
    assert shown.returncode == 0
    assert "broken-guest 0.1" in shown.stdout and "a_module_that_is_not_there" in shown.stdout
    asked = run(site, tmp_path, "-m", "compressor", "method=broken")
    assert asked.returncode == 8, asked.stderr
    assert "broken-guest 0.1" in asked.stderr


def test_the_readme_shows_the_plugin_that_is_tested() -> None:
    source = (THIRD_PARTY / "keep_largest" / "__init__.py").read_text(encoding="utf-8")
    assert source in (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(source.splitlines()) < 60
