"""In a browser: nothing wider than the window, on a desk and on a phone; every text readable, by day and by night; printed."""

from __future__ import annotations

import html
import json
import re
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from html_samples import calls, many
from run_folders import Model, write_run, write_status

from compressor.compare import compare, load_runs
from compressor.report.comparison import comparison
from compressor.report.examples import Examples
from compressor.report.grid import Grid
from compressor.report.html import write_html
from compressor.report.html.from_run import from_run
from compressor.report.views import Format, render

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--allow-file-access-from-files",
)  # fmt: skip
# A frame gives the page its width exactly; a window is never narrower than the browser likes.
PROBE = """<!DOCTYPE html><meta charset="utf-8"><body style="margin:0"><script>
addEventListener("load", async () => {
  const found = {};
  for (const [name, width] of CASES) {
    const frame = document.createElement("iframe");
    frame.style.cssText = `width:${width}px;height:900px;border:0`;
    frame.src = `${name}/report.html`;
    document.body.append(frame);
    await new Promise((done) => { frame.onload = done; });
    const page = frame.contentDocument, root = page.documentElement;
    for (const folded of page.querySelectorAll("details.grids")) folded.open = true;
    const wide = [...page.querySelectorAll("main *")].filter((e) => !e.closest(".scroll, .box, svg, details:not([open])")
      && e.getBoundingClientRect().right > width + 0.5).map((e) => e.tagName + "." + e.className);
    const words = [...page.querySelectorAll(".words p")].filter((e) => e.scrollWidth > e.clientWidth
      || e.getBoundingClientRect().right > e.closest(".box").getBoundingClientRect().right);
    const sizes = [...page.querySelectorAll("svg.plot text")].filter((e) => e.getBoundingClientRect().width)
      .map((e) => e.getBoundingClientRect().height);
    found[`${name}-${width}`] = {
      scroll: root.scrollWidth, client: root.clientWidth, wide: wide.slice(0, 5), words: words.length,
      smallest: Math.min(...sizes),
      rows: page.querySelectorAll("table.many tbody tr").length,
      sortable: page.querySelectorAll("table.many button").length,
    };
  }
  document.title = "done";
  document.body.dataset.found = JSON.stringify(found);
});
</script>"""


# Of every text the contrast with what lies behind it, as the Web Content Accessibility Guidelines 2.2 count it.
CONTRAST = """<!DOCTYPE html><meta charset="utf-8"><body><iframe src="REPORT" width="WIDTH" height="900"></iframe><script>
addEventListener("load", () => {
  const page = document.querySelector("iframe").contentDocument, style = (e) => e.ownerDocument.defaultView.getComputedStyle(e);
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => { for (; e; e = e.parentElement) {
    const [r, g, b, a] = parts(style(e).backgroundColor);
    if (a === undefined || a > 0.99) return [r, g, b];
  } return [255, 255, 255]; };
  for (const folded of page.querySelectorAll("details")) folded.open = true;
  const worst = [];
  for (const e of page.querySelectorAll("main *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || e.closest("svg") || !e.getClientRects().length) continue;
    const [one, other] = [light(parts(style(e).color)), light(behind(e))].sort((x, y) => y - x);
    worst.push([(one + 0.05) / (other + 0.05), `${e.tagName}.${e.className}: ${e.textContent.slice(0, 40)}`]);
  }
  worst.sort((x, y) => x[0] - y[0]);
  document.body.dataset.found = JSON.stringify({
    texts: worst.length, worst: worst.slice(0, 3), ground: light(behind(page.querySelector("main"))),
  });
});
</script>"""


def grid(columns: int) -> Grid:
    header = tuple(f"model_with_a_long_name_{i}" for i in range(columns))
    return Grid(title="accuracy on test", lead="119 of 1,284 answers differ. " * 4, header=header, rows=(header,) * 60)


def write_page(place: Path) -> None:
    """Write the page of 43 runs, two of which did not end well."""
    for i in range(43):
        model = Model(
            right=300 + i, size_bytes=90_000_000 - i * 1_000_000, speeds={"torch": 1 + i / 10, "onnxruntime": i % 3}
        )
        options = {"settings": {"student.layers": i}, "overrides": [f"experiment=a_recipe_with_a_long_name_{i}"]}
        write_run(place / "runs" / str(i), model, **options)
    write_status(place / "runs" / "failed", "failed(MeasureError: " + "it_crashed" * 20 + ")")
    (place / "compared").mkdir()
    page = render(comparison(compare(load_runs([place / "runs"])), command="python -m x"), Format.html)
    (place / "compared" / "report.html").write_text(page, encoding="utf-8")


def browse(page: Path, *flags: str) -> str:
    """Open a page in a browser that is nobody's; return what it prints."""
    assert BROWSER is not None
    command = [BROWSER, *FLAGS, f"--user-data-dir={page.parent / 'profile'}", "--window-size=1600,1200"]
    command += ["--virtual-time-budget=20000", *flags, page.as_uri()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return ended.stdout


def seen_in(probe: Path, *flags: str) -> Any:
    dumped = re.search(r'data-found="([^"]*)"', browse(probe, "--dump-dom", *flags))
    assert dumped is not None
    return json.loads(html.unescape(dumped.group(1)))


IN_A_BROWSER = pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH, so the page is laid out nowhere")


@IN_A_BROWSER
def test_nothing_is_wider_than_the_window(tmp_path: Path) -> None:
    for name, count in (("two", 2), ("five", 5), ("thirty", 30)):
        result = many(count)
        (tmp_path / name).mkdir()
        flips = grid(count)
        flips = replace(flips, texts=tuple(f"{'word ' * 40}{'unbroken' * 20}" for _ in flips.rows))
        shown = Examples(best=(), flips=(flips,), slices=(grid(count),))
        report = from_run(result, calls_ms=calls(result), examples=shown, price_per_hour=1.0)
        speeds = (*report.speeds, replace(grid(count), notes=("word " * 40 + "unbroken" * 20,)))
        write_html(replace(report, speeds=speeds), tmp_path / name)
    write_page(tmp_path)
    cases = [[name, width] for name in ("two", "five", "thirty", "compared") for width in (390, 800, 1400)]
    (tmp_path / "probe.html").write_text(PROBE.replace("CASES", json.dumps(cases)))
    found = seen_in(tmp_path / "probe.html")
    assert len(found) == len(cases)
    for case, seen in found.items():
        assert seen["scroll"] <= seen["client"], (case, seen)
        assert not seen["wide"], (case, seen)
        assert seen["smallest"] >= 10, (case, seen)
        assert seen["words"] == 0, "a text is read without scrolling"
    assert found["compared-1400"]["rows"] == 44, "a teacher and 43 models"
    assert found["thirty-1400"]["sortable"] > 8, "the page's own script did not run under its policy"


@IN_A_BROWSER
@pytest.mark.parametrize("width", [390, 1400])
def test_every_text_can_be_read_by_day_and_by_night(tmp_path: Path, width: int) -> None:
    result = many(5)
    grids = {"flips": (grid(5),), "slices": (grid(5),)}
    shown = Examples(best=(), **grids)
    write_html(from_run(result, calls_ms=calls(result), examples=shown, price_per_hour=1.0), tmp_path)
    probe = tmp_path / "probe.html"
    probe.write_text(CONTRAST.replace("REPORT", "report.html").replace("WIDTH", str(width)))
    day, night = (seen_in(probe, f"--blink-settings=preferredColorScheme={scheme}") for scheme in (1, 0))
    assert day["ground"] > 0.8 and night["ground"] < 0.05
    for found in (day, night):
        assert found["texts"] > 100
        assert found["worst"][0][0] >= 4.5, found["worst"]


@IN_A_BROWSER
def test_the_page_is_drawn_and_printed(tmp_path: Path) -> None:
    result = many(5)
    write_html(from_run(result, calls_ms=calls(result)), tmp_path)
    for name, flag in (("drawn.png", "screenshot"), ("printed.pdf", "print-to-pdf")):
        browse(tmp_path / "report.html", f"--{flag}={tmp_path / name}")
    drawn, printed = (tmp_path / "drawn.png").read_bytes(), (tmp_path / "printed.pdf").read_bytes()
    assert struct.unpack(">II", drawn[16:24]) == (1600, 1200) and len(drawn) > 50_000, "an empty page takes 10 kB"
    assert printed.startswith(b"%PDF") and 1 < len(re.findall(rb"/Type\s*/Page\b", printed)) < 20
