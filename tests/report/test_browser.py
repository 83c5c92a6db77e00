"""The page in a real browser: it loads without complaint, runs nothing, and fits narrow and wide windows."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tailorbird.report import render, write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *(
        "--disable-background-networking",
        "--disable-component-update",
        "--enable-logging=stderr",
        "--dump-dom",
    ),
]
# Everything that sticks out of the window, or of the picture that it belongs to.
MEASURE = """<script>
const out = [];
for (const text of document.querySelectorAll('svg.chart text')) {
  const box = text.getBoundingClientRect(), frame = text.ownerSVGElement.getBoundingClientRect();
  const beyond = Math.max(frame.left - box.left, box.right - frame.right, box.bottom - frame.bottom);
  if (box.width && beyond > 1) out.push(text.textContent);
}
const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
document.title = 'wide ' + wide + ' out ' + out.join('|');
</script></body>"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium"),
]


def visit(page: Path, width: int) -> str:
    """The page's DOM after loading; the browser's console must have stayed empty."""
    profile = page.parent / f"profile{width}"
    command = [
        str(BROWSER),
        *FLAGS,
        f"--user-data-dir={profile}",
        f"--window-size={width},900",
        page.as_uri(),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert not re.findall(r".*CONSOLE.*", result.stderr)
    return result.stdout


def test_loads_quietly(tmp_path: Path, report: dict[str, Any]) -> None:
    dom = visit(write_report(tmp_path, report), 1280)
    assert "<title>demo:gemma-270m, compressed</title>" in dom
    assert dom.count("<section") == 8
    assert dom.count('class="chart"') >= 5


def test_hostile_text_runs_nothing(tmp_path: Path, report: dict[str, Any]) -> None:
    attack = "</title><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    report["model"]["source"] = report["parts"][5]["name"] = report["samples"][0]["compressed"] = attack
    dom = visit(write_report(tmp_path, report), 1280)
    assert "<script" not in dom and "<img" not in dom and "<title>owned" not in dom


@pytest.mark.parametrize("width", [500, 820, 1280])
@pytest.mark.parametrize("names", ["usual", "huge"])
def test_nothing_sticks_out(tmp_path: Path, report: dict[str, Any], width: int, names: str) -> None:
    if names == "huge":
        report["model"]["source"] = report["machine"]["cpu"] = "x" * 300
        for index, part in enumerate(report["parts"]):
            part["name"] = part["name"].replace("proj", "projection_with_an_endless_name" * 4) + str(index % 7)
    page = tmp_path / "page.html"
    open_page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*/>', "", render(report))
    page.write_text(open_page.replace("</body>", MEASURE), encoding="utf-8")
    title = re.search(r"<title>(.*?)</title>", visit(page, width))
    assert title
    assert title[1] == "wide 0 out "
