"""In a browser: nothing wider than the window, on a desk and on a phone, with two and with thirty models."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

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


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH, so the page is laid out nowhere")
def test_nothing_is_wider_than_the_window(tmp_path: Path) -> None:
    for name, count in (("two", 2), ("five", 5), ("thirty", 30)):
        result = many(count)
        (tmp_path / name).mkdir()
        flips = grid(count)
        flips = replace(flips, texts=tuple(f"{'word ' * 40}{'unbroken' * 20}" for _ in flips.rows))
        shown = Examples(best=(), flips=(flips,), slices=(grid(count),))
        report = from_run(result, calls_ms=calls(result), examples=shown, price_per_hour=1.0)
        write_html(report, tmp_path / name)
    write_page(tmp_path)
    cases = [[name, width] for name in ("two", "five", "thirty", "compared") for width in (390, 800, 1400)]
    (tmp_path / "probe.html").write_text(PROBE.replace("CASES", json.dumps(cases)))
    assert BROWSER is not None
    command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1600,1200"]
    ended = subprocess.run(
        [*command, "--virtual-time-budget=20000", "--dump-dom", (tmp_path / "probe.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    dumped = re.search(r'data-found="([^"]*)"', ended.stdout)
    assert dumped is not None, ended.stderr[-2000:]
    found = json.loads(html.unescape(dumped.group(1)))
    assert len(found) == len(cases)
    for case, seen in found.items():
        assert seen["scroll"] <= seen["client"], (case, seen)
        assert not seen["wide"], (case, seen)
        assert seen["smallest"] >= 10, (case, seen)
        assert seen["words"] == 0, "a text is read without scrolling"
    assert found["compared-1400"]["rows"] == 44, "a teacher and 43 models"
    assert found["thirty-1400"]["sortable"] > 8, "the page's own script did not run under its policy"
