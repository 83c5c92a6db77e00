"""Which kernels are used, and what happens without any."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from tailorbird.errors import TailorbirdError, UsageError
from tailorbird.fit.groups import minmax
from tailorbird.fit.sweep import sweep
from tailorbird.formats import PlaneSpec
from tailorbird.kernels import native
from tailorbird.runtime.modules import PackedLinear, pack_module


@pytest.fixture
def fresh(extension: Any) -> Iterator[None]:
    """As at the start of a process, here and afterwards."""
    native.extension.cache_clear()
    yield
    native.extension.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_without_the_extension_the_reference_serves_after_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(native.VARIABLE, raising=False)
    monkeypatch.setattr(native, "load", lambda: None)
    layer = nn.Linear(16, 8, bias=False)
    planes = sweep(layer.weight.detach(), PlaneSpec.uniform(3, 16, 8), minmax).pack()
    with pytest.warns(native.SlowKernelsWarning, match="install a C\\+\\+20 compiler") as caught:
        pack_module(layer, planes)
        pack_module(nn.Embedding(8, 16), planes)
    assert len(caught) == 1
    assert isinstance(layer, PackedLinear) and layer.native is None
    x = torch.randn(2, 16)
    assert torch.equal(layer(x), planes.matmul(x))


@pytest.mark.usefixtures("fresh")
def test_the_reference_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.VARIABLE, "reference")
    assert native.extension() is None and not native.available()
    native.set_threads(2)


@pytest.mark.usefixtures("fresh")
def test_a_variant_can_be_asked_for(monkeypatch: pytest.MonkeyPatch, extension: Any) -> None:
    for variant in extension.variants():
        monkeypatch.setenv(native.VARIABLE, variant)
        native.extension.cache_clear()
        assert native.available() and extension.variant() == variant
    for wrong in ("sse9", "Reference"):
        monkeypatch.setenv(native.VARIABLE, wrong)
        native.extension.cache_clear()
        with pytest.raises(UsageError, match="no kernels") as caught:
            native.extension()
        assert "portable, reference" in caught.value.hint
    with pytest.raises(ValueError, match="it has"):
        extension.use_variant("sse9")


def test_the_machine_can_be_measured(extension: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert native.read_bandwidth(1 << 22, 0.01) > 0
    monkeypatch.setattr(native, "extension", lambda: None)
    with pytest.raises(TailorbirdError, match="no native kernels"):
        native.read_bandwidth()


def test_a_missing_file_is_a_missing_extension() -> None:
    code = (
        "import sys; sys.modules['tailorbird.kernels._native'] = None\n"
        "from tailorbird.kernels import native\nprint(native.load(), native.available())"
    )
    environment = {**os.environ, "PYTHONWARNINGS": "always"} | {native.VARIABLE: ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "None False\n" and done.stderr.count("SlowKernelsWarning") == 1
