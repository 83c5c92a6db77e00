"""Tailoring on the command line, on the packaged data: train, make, apply, simulate."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tailorbird.cli.main import call
from tailorbird.tailor.intellectreq import FORMS
from tailorbird.tailor.requests import POLICIES

SHAPE = ["--shape", "length=8", "--shape", "width=8", "--shape", "layers=1"]
QUICK = ["--set", "epochs=1", "--set", "samples=2000", "--set", "batch=500"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trunk in `trunk`, a tailored model in `mine`, and one of another split in `other`."""
    out = tmp_path_factory.mktemp("tailor")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(out / "cache"))
        train = [
            "--data",
            "ml-latest-small",
            *SHAPE,
            "--set",
            "epochs=1",
            "--set",
            "loss=gbce",
            "--set",
            "negatives=16",
        ]
        assert call(["train", "gru4rec", "--split", "last-3", "--out", str(out / "trunk"), *train]) == 0
        assert call(["tailor", "train", str(out / "trunk"), "--out", str(out / "mine"), *QUICK, "--budget", "0.3"]) == 0
    return out


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_trained(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about = json.loads((folders / "mine" / "tailor.json").read_text())
    assert about["payload"] < 500 and about["log"][0]["epoch"] == 0
    assert {"trunk", "duet", "p"} == about["test"]["ndcg@10"].keys()
    page = (folders / "mine" / "report.html").read_text()
    assert "duet on gru4rec" in page and "head users (" in page and "Validation: generator" in page
    assert 0 < about["detector"]["rate"] <= 0.3 and about["detector"]["form"] == "intellectreq"
    assert call(["tailor", "train", str(folders / "trunk"), "--out", "x", "--budget", "1"]) == 2
    assert call(["tailor", "train", str(folders / "trunk"), "--out", "x", "--budget", "0.5", "--detector", "no"]) == 2
    assert call(["tailor", "train", str(folders / "trunk"), "--out", str(folders / "mine")]) == 2
    assert call(["tailor", "train", str(folders / "trunk"), "--out", "x", "--set", "epochs=no"]) == 2
    assert call(["tailor", "train", str(folders / "nowhere"), "--out", "x"]) == 3
    assert call(["recommend", str(folders / "mine"), "--history", "1", "--count", "2"]) == 0  # it is a trunk as well


def test_make_and_apply(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, patch, history = str(folders / "mine"), str(tmp_path / "patch"), ["--history", "Matrix, The (1999)"]
    assert call(["tailor", "make", model, *history, "--out", patch, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["bytes"] == Path(patch).stat().st_size < 500
    assert call(["tailor", "apply", model, "--patch", patch, *history, "--count", "3", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["items"]) == 3
    Path(patch).write_bytes(Path(patch).read_bytes()[:-1])
    assert call(["tailor", "apply", model, "--patch", patch, *history]) == 6
    Path(patch).write_bytes(bytes(100_000))
    assert call(["tailor", "apply", model, "--patch", patch, *history]) == 6
    assert call(["tailor", "apply", model, "--patch", str(tmp_path / "none"), *history]) == 6
    assert call(["tailor", "apply", str(tmp_path), "--patch", patch, *history]) == 6
    assert "hint" in capsys.readouterr().err


@pytest.mark.parametrize("item", ["0", "9067", "99999", "9" * 18])
def test_items_that_are_none(folders: Path, tmp_path: Path, item: str, capsys: pytest.CaptureFixture[str]) -> None:
    patch = str(tmp_path / "patch")
    assert call(["tailor", "make", str(folders / "mine"), "--history", "5", "--history", item, "--out", patch]) == 2
    assert "items lie between 1 and 9066" in capsys.readouterr().err and not Path(patch).exists()


def test_export(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    for name in ("mine", "trunk"):  # tailored, and as `tailorbird train` wrote it
        out = tmp_path / name
        assert call(["tailor", "export", str(folders / name), "--out", str(out), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["error"] < 1e-4 and found["nbytes"] == (out / "model.onnx").stat().st_size
    assert call(["tailor", "export", str(folders / "mine"), "--out", str(tmp_path / "mine")]) == 2
    assert call(["tailor", "export", str(tmp_path), "--out", str(tmp_path / "x")]) == 6


# Embeddings' codes have eight bits at most: what 16 bits have beyond goes into a second term.
@pytest.mark.parametrize("bits", [12, 16])
def test_compressed_trunk(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], bits: int) -> None:
    small, args = tmp_path / "small", ["--method", "rtn", "--budget", f"{bits}bits"]
    assert call(["compress", str(folders / "trunk"), "--dry-run", *args, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["parts"][0]["name"] == "items"
    assert call(["compress", str(folders / "trunk"), "--out", str(small), *args, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bits"] <= bits and found["weight_bytes"] < (folders / "trunk" / "model.safetensors").stat().st_size
    assert {"original", "compressed", "p"} == found["quality"]["ndcg@10"].keys()
    assert call(["verify", str(small)]) == 0
    assert call(["recommend", str(small), "--history", "1", "--count", "2"]) == 0
    mine = str(tmp_path / "mine")
    assert call(["tailor", "train", str(small), "--out", mine, "--system", "diet", *QUICK]) == 0
    assert "masks, epoch   1" in capsys.readouterr().err
    patch = str(tmp_path / "patch")
    assert call(["tailor", "make", mine, "--history", "5", "--out", patch]) == 0
    assert call(["tailor", "apply", mine, "--patch", patch, "--history", "5"]) == 0
    assert call(["simulate", mine, "--devices", "5", "--budget", "1"]) == 0
    assert call(["tailor", "train", str(small), "--out", mine, "--system", "nobody"]) == 2


def test_simulate(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    svg = tmp_path / "curve.svg"
    args = ["simulate", str(folders / "mine"), "--devices", "20", "--budget", "0", "--budget", "0.5", "--budget", "1"]
    assert call([*args, "--svg", str(svg), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["devices"] == 20 and found["events"] == 3
    rows = {(row["policy"], row["budget"]): row for row in found["rows"]}
    assert {policy for policy, _ in rows} == {*POLICIES, *FORMS}
    for policy, _ in rows:
        never, always = rows[policy, 0], rows[policy, 1]
        assert never["requests"] == 0 and always["requests"] == 2 and always["bytes_down"] > never["bytes_down"] > 0
        assert never["ndcg@10"] == rows["drift", 0]["ndcg@10"] or policy == "random"  # five replays, other intervals
    for odd in (["--devices", "-5"], ["--budget", "1.5"], ["--budget", "nan"]):
        assert call(["simulate", str(folders / "mine"), *odd]) == 2
    out = tmp_path / "fleet"
    assert call([*args, "--out", str(out)]) == 0 and f"report: {out / 'report.html'}" in capsys.readouterr().out
    kept = json.loads((out / "report.json").read_text())
    assert {key: kept[key] for key in found} == found and "kB up a device" in (out / "report.html").read_text()
    assert call([*args, "--out", str(out), "--resume"]) == 2 and "exists" in capsys.readouterr().err
    assert call([*args, "--resume"]) == 2
    assert svg.read_text().startswith("<svg") and "intellectreq gain" in svg.read_text()
    assert call(args[:4]) == 0 and "against random" in capsys.readouterr().out


def test_damaged(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    mine = tmp_path / "mine"
    for name, text in (("tailor.json", "{}"), ("manifest.json", "[]"), ("generator.safetensors", "x")):
        shutil.rmtree(mine, ignore_errors=True)
        shutil.copytree(folders / "mine", mine)
        (mine / name).write_text(text)
        assert call(["tailor", "make", str(mine), "--history", "1", "--out", str(tmp_path / "p")]) in (3, 6)
    assert not (tmp_path / "p").exists()


def test_apply_needs_no_torch(folders: Path, tmp_path: Path) -> None:
    patch = str(tmp_path / "patch")
    assert call(["tailor", "make", str(folders / "mine"), "--history", "5", "--out", patch]) == 0
    code = (
        "import sys\nfrom pathlib import Path\nfrom tailorbird.tailor.device import load, read_patch\n"
        f"device = load(Path({str(folders / 'mine')!r}))\n"
        "assert device.asks([5])\n"
        f"device.take(read_patch(Path({patch!r}), device.manifest), [5])\n"
        "assert device.asks([5]) in (False, True)\n"
        "assert len(device.scores([5])) == 9067 and 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
