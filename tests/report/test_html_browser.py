"""In a browser: nothing wider than the window, on a desk and on a phone, with two and with thirty models."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from html_samples import calls, many

from compressor.report.html import write_html
from compressor.report.html.from_run import from_run

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
    const wide = [...page.querySelectorAll("main *")].filter((e) => !e.closest(".scroll, svg, details:not([open])")
      && e.getBoundingClientRect().right > width + 0.5).map((e) => e.tagName + "." + e.className);
    const sizes = [...page.querySelectorAll("svg.plot text")].filter((e) => e.getBoundingClientRect().width)
      .map((e) => e.getBoundingClientRect().height);
    found[`${name}-${width}`] = {
      scroll: root.scrollWidth, client: root.clientWidth, wide: wide.slice(0, 5), smallest: Math.min(...sizes),
      sortable: page.querySelectorAll("table.many button").length,
    };
  }
  document.title = "done";
  document.body.dataset.found = JSON.stringify(found);
});
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH, so the page is laid out nowhere")
def test_nothing_is_wider_than_the_window(tmp_path: Path) -> None:
    for name, count in (("two", 2), ("five", 5), ("thirty", 30)):
        result = many(count)
        (tmp_path / name).mkdir()
        write_html(from_run(result, calls_ms=calls(result), price_per_hour=1.0), tmp_path / name)
    cases = [[name, width] for name in ("two", "five", "thirty") for width in (390, 800, 1400)]
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
    assert found["thirty-1400"]["sortable"] > 8, "the page's own script did not run under its policy"
