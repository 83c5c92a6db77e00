"""What the tests of the pages share: their words, and how they do in a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

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
# Everything that sticks out of the window, or of the picture that it belongs to, or lies on an axis' name.
MEASURE = """<script>
const out = [];
for (const text of document.querySelectorAll('svg.chart text')) {
  const box = text.getBoundingClientRect(), frame = text.ownerSVGElement.getBoundingClientRect();
  const beyond = Math.max(frame.left - box.left, box.right - frame.right, box.bottom - frame.bottom);
  if (box.width && beyond > 1) out.push(text.textContent);
  for (const name of text.ownerSVGElement.querySelectorAll('text[transform]')) {
    const at = name.getBoundingClientRect();
    const across = Math.min(at.right, box.right) - Math.max(at.left, box.left);
    const down = Math.min(at.bottom, box.bottom) - Math.max(at.top, box.top);
    if (name != text && Math.min(across, down) > 0) out.push(text.textContent + ' on ' + name.textContent);
  }
}
const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
document.title = 'wide ' + wide + ' out ' + out.join('|');
</script></body>"""


Test = Callable[..., Any]


def in_browser(test: Test) -> Test:
    """A slow test, which is left out where there is no browser."""
    there = pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium")
    marked: Test = pytest.mark.slow(there(test))
    return marked


def words(page: str) -> str:
    """The text of a page, which has to be well-formed."""
    tree = ElementTree.fromstring(page.encode().partition(b"\n")[2])
    return " ".join(" ".join(tree.itertext()).split())


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


def measured(page: str, folder: Path, width: int) -> str:
    """How far the page is wider than the window, and which texts stick out of their pictures."""
    path = folder / "measured.html"
    open_page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*/>', "", page)
    path.write_text(open_page.replace("</body>", MEASURE), encoding="utf-8")
    title = re.search(r"<title>(.*?)</title>", visit(path, width))
    assert title
    return title[1]
