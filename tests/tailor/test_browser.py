"""An exported recommender in a real browser, run by onnxruntime-web: the golden scores, patches, and the page."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from runpy import run_path
from typing import Any

import numpy as np
import pytest

from tailorbird.pipeline import compress, prepare
from tailorbird.tailor.device import Device, load
from tailorbird.tailor.head import NAMES, manifest_for
from tailorbird.tailor.manifest import manifest_of
from tailorbird.tailor.patch import KINDS, Patch, apply, full, identity
from tailorbird.tailor.wire import ENCODINGS, _message, _result, encode
from tailorbird.zoo.recommenders import folder

from .conftest import made, random_head

_browser = run_path(str(Path(__file__).parents[1] / "serve" / "browser.py"))
RUNTIME = Path(__file__).with_name("web") / "node_modules"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(_browser["BROWSER"] is None, reason="needs Chromium: apt-get install chromium"),
    pytest.mark.skipif(not RUNTIME.is_dir(), reason="needs onnxruntime-web: npm ci --prefix tests/tailor/web"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with _browser["browsing"](tmp_path_factory.mktemp("profile")) as found:
        yield found


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def served(out: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(out)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module", params=["sasrec", "gru4rec", "sasrec in 4 bits", "gru4rec in 2 bits"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Device, Path]]:
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    from tailorbird.tailor.export import export

    base = tmp_path_factory.mktemp("site")
    name, _, bits = request.param.partition(" in ")
    folder.save(base / "m", made(name), tuple(f"film {i}" for i in range(1, 41)), {})
    if bits:
        job = prepare(base / "m", "rtn", "200bits")
        plan = job.planned({part.name: job.spec(part, int(bits[0])) for part in job.model.parts}).plan
        compress(base / "m", base / "small", plan=plan)
    export(base / ("small" if bits else "m"), base / "x")
    (base / "x" / "node_modules").symlink_to(RUNTIME)
    with served(base / "x") as url:
        yield url, load(base / ("small" if bits else "m")), base / "x"


def opened(page: Any, url: str) -> None:
    page.events.clear()
    page.open(url)
    page.wait("window.recommender || document.querySelector('#error').textContent")
    assert page.run("document.querySelector('#error').textContent") == ""


def taken(page: Any, message: bytes) -> str:
    """Why a patch was refused; nothing where it was put to use."""
    data = base64.b64encode(message).decode()
    made = f"Uint8Array.from(atob({data!r}), letter => letter.charCodeAt(0))"
    return str(page.run(f"window.recommender.take({made}).then(() => '', cause => cause.message)"))


def scores(page: Any, history: list[int]) -> Any:
    return np.array(page.run(f"window.recommender.scores({history}).then(found => [...found])"), np.float32)


def test_golden_scores(page: Any, site: tuple[str, Device, Path]) -> None:
    url, device, out = site
    opened(page, url)
    found = json.loads((out / "golden.json").read_text())
    for patched in (False, True):
        if patched:
            assert taken(page, base64.b64decode(found["patch"])) == ""
        for case in (case for case in found["cases"] if case["patched"] == patched):
            wanted, allowed = np.array(case["scores"]), found["tolerance"] * case["largest"]
            np.testing.assert_allclose(scores(page, case["history"])[case["items"]], wanted, atol=allowed)
    page.run("window.recommender.reset()")
    device.tensors = device.trunk
    np.testing.assert_allclose(scores(page, [1, 2, 3]), device.scores([1, 2, 3]), atol=1e-5)
    assert page.complaints() == []
    assert {address for address in page.requested() if not address.startswith((url, "data:", "blob:"))} == set()


def test_patches_swap_without_a_new_session(page: Any, site: tuple[str, Device, Path]) -> None:
    url, device, _ = site
    opened(page, url)
    page.run("window.first = window.recommender.session")
    device.tensors = device.trunk
    plain = scores(page, [3, 1, 4])
    assert taken(page, encode(identity("delta", device.trunk, device.manifest), device.trunk, device.manifest)) == ""
    np.testing.assert_array_equal(scores(page, [3, 1, 4]), plain)
    for seed, dtype, tolerance in ((1, "float32", 0.0), (2, "float16", 0.0), (3, "float32", 0.01)):
        patch = full(random_head(seed), device.manifest, dtype)
        message = encode(patch, device.trunk, device.manifest, tolerance=tolerance)
        assert taken(page, message) == ""
        device.take(message)
        np.testing.assert_allclose(scores(page, [3, 1, 4]), device.scores([3, 1, 4]), atol=1e-5)
    damaged = bytearray(message)
    for place in (0, 5, 20, 40, 46, len(message) - 1):
        damaged[place] ^= 255
        assert "refused" in taken(page, bytes(damaged))
        damaged[place] ^= 255
    assert "refused" in taken(page, message[:-1]) and "refused" in taken(page, bytes(100_000))
    np.testing.assert_allclose(scores(page, [3, 1, 4]), device.scores([3, 1, 4]), atol=1e-5)
    assert page.run("window.first === window.recommender.session")


def test_every_kind_and_encoding(
    page: Any, site: tuple[str, Device, Path], trunk: Any, patches: dict[str, Patch]
) -> None:
    """The module's reader against the reader of the package, on a trunk with a head and prototypes of its own."""
    url, _, _ = site
    opened(page, url)
    rich = with_rich_manifest(trunk)
    words = json.dumps({"manifest": rich.to_json(), "digest": rich.digest})
    own = {name: np.asarray(v).ravel().tolist() for name, v in trunk.items() if "head." in name}
    page.run(
        f"""window.tried = window.recommender.constructor; (() => {{
          const about = {words}, own = {json.dumps(own)};
          for (const name in own) own[name] = Float32Array.from(own[name]);
          window.other = new window.tried(null, null, {{manifest: about.digest}}, about.manifest, own); }})()"""
    )
    for kind in KINDS:
        patch = patches[kind]
        for encoding in ENCODINGS:
            if encoding == "rows" and kind != "full":
                continue
            wanted = apply(trunk, patch, rich)
            message = _message(encoding, patch, trunk, rich, _result(wanted, rich))
            data = base64.b64encode(message).decode()
            found = page.run(
                f"""window.other.take(Uint8Array.from(atob({data!r}), x => x.charCodeAt(0)))
                .then(() => {json.dumps(NAMES)}.map(name => [...window.other.head[name]]), cause => cause.message)"""
            )
            if kind == "lowrank":  # sums of products differ in their last bits from library to library
                assert "refused" in found
                continue
            assert not isinstance(found, str), (kind, encoding, found)
            for name, values in zip(NAMES, found, strict=True):
                np.testing.assert_array_equal(np.array(values, np.float32), wanted[name].ravel())


def with_rich_manifest(trunk: Any) -> Any:
    plain = manifest_for(trunk, 8.0)
    actions, bounds = {entry.name: entry.actions for entry in plain.tensors}, dict.fromkeys(NAMES, 8.0)
    return manifest_of(trunk, actions, max_abs=bounds, max_bytes=16_384, prototypes=2, clip=0.5)


def test_the_page(page: Any, site: tuple[str, Device, Path]) -> None:
    url, device, _ = site
    opened(page, url)
    for text in ("film 3", "7"):
        page.run("document.querySelector('#title').focus()")
        page.type(text)
        page.press("Enter")
        page.wait("document.querySelector('#title').value === ''")
    page.wait("document.querySelectorAll('#history li').length === 2")
    device.tensors = device.trunk
    wanted = device.scores([3, 7])
    wanted[[0, 3, 7]] = -np.inf
    titles = [f"film {item}" for item in np.argsort(-wanted, kind="stable")[:10]]
    shown = "[...document.querySelectorAll('#next li')].map(x => x.textContent).join('; ')"
    page.wait(f"{shown} === {'; '.join(titles)!r}")
    page.type("no such film")
    page.press("Enter")
    assert "no item" in page.wait("document.querySelector('#error').textContent")
