"""A simulated fleet: killed and resumed with the same result, with results by group and a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tailorbird.errors import ModelError, UsageError
from tailorbird.tailor import fleet as fleets
from tailorbird.tailor import folder as tailored
from tailorbird.tailor import simulate as simulating
from tailorbird.tailor import work as working
from tailorbird.tailor.fleet import fleet
from tailorbird.tailor.folder import Tailored
from tailorbird.tailor.intellectreq import FORMS
from tailorbird.tailor.outcome import differing, outcomes, plain
from tailorbird.tailor.requests import POLICIES
from tailorbird.tailor.run import tailor_and_test
from tailorbird.tailor.simulate import simulate_to
from tailorbird.tailor.staleness import ranks_of
from tailorbird.tailor.work import INDEX, Pieces, once
from tailorbird.tasks.sequences.dataset import Sequences
from tailorbird.tasks.sequences.metrics import ndcg
from tailorbird.tasks.sequences.split import Split, last_events
from tailorbird.zoo.recommenders import folder

from .conftest import made

ITEMS, DEVICES = 30, 20
BUDGETS = (0.0, 0.5, 1.0)


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def split() -> Split:
    """Users with histories of 9 events and more, each longer than the one before."""
    lengths = 9 + np.arange(DEVICES)
    events = [1 + (user + np.arange(n) * (1 + user % 3)) % ITEMS for user, n in enumerate(lengths)]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return last_events(Sequences("made", offsets, np.concatenate(events).astype(np.int64), ITEMS), 3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, split: Split) -> Tailored:
    out = tmp_path_factory.mktemp("simulation")
    about = {"data": {"name": "made", "digest": split.data.digest, "split": "last-3"}}
    folder.save(out / "trunk", made("gru4rec", items=ITEMS), (), about)
    settings = {"epochs": 2, "batch": 64, "rate": 0.03, "samples": 200}
    tailor_and_test(out / "trunk", split.data, out / "mine", settings)
    return tailored.read(out / "mine")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, model: Tailored, split: Split) -> Path:
    """A simulation that nobody disturbed, in four pieces a stream."""
    out = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        simulate_to(out, model, split, budgets=BUDGETS)
    return out


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)


def shrink(patch: pytest.MonkeyPatch) -> None:
    """Four pieces a stream, and one learned policy: their training is most of the time."""
    patch.setattr(fleets, "AT_ONCE", 5)
    patch.setattr(simulating, "FORMS", {"intellectreq": FORMS["intellectreq"]})


def test_killed_after_every_piece(
    tmp_path: Path, model: Tailored, split: Split, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, sent, seen = tmp_path / "out", [], []
    real = fleets.send

    def counted(*given: Any) -> Any:
        sent.append(1)
        return real(*given)

    monkeypatch.setattr(fleets, "send", counted)

    def told(what: str, done: int, total: int) -> None:
        new = (what, done, total) not in seen
        seen.append((what, done, total))
        if new and done:
            raise Killed

    for attempt in range(30):
        try:
            simulate_to(out, model, split, budgets=BUDGETS, resume=True, told=told)
            break
        except Killed:
            assert not out.exists()
            if not attempt:
                with pytest.raises(UsageError, match="unfinished simulation"):
                    simulate_to(out, model, split, budgets=BUDGETS)
                with pytest.raises(UsageError, match="another job"):
                    simulate_to(out, model, split, budgets=(0.5,), resume=True)
    assert attempt == 8 + 4
    assert [done for what, done, _ in seen if what == "policies"] == [0, 1, 1, 2, 2, 3, 3, 3]  # never back
    assert len(sent) == 8  # nothing that was finished is made again
    stages = {(what, total) for what, _, total in seen}
    assert stages == {("streams of devices", 2 * DEVICES), ("policies", 3), ("learned policies", 1)}
    for file in ("report.json", "report.html"):
        assert (out / file).read_bytes() == (whole / file).read_bytes()
    assert not out.with_name("out.simulation").exists()
    with pytest.raises(UsageError, match="exists"):
        simulate_to(out, model, split, budgets=BUDGETS, resume=True)


@pytest.mark.parametrize("moment", [0, 1, 2, 20])
def test_killed_while_it_writes(
    tmp_path: Path, model: Tailored, split: Split, whole: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """Between a piece and the list of pieces, too: what the list does not name is made again."""
    real, calls = working.write_atomic, []

    def struck(path: Path, data: bytes) -> None:
        calls.append(path)
        if len(calls) > moment:
            raise Killed
        real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(working, "write_atomic", struck)
        with pytest.raises(Killed):
            simulate_to(tmp_path / "out", model, split, budgets=BUDGETS)
    simulate_to(tmp_path / "out", model, split, budgets=BUDGETS, resume=True)
    assert (tmp_path / "out" / "report.json").read_bytes() == (whole / "report.json").read_bytes()


def test_damaged_work_is_refused(tmp_path: Path) -> None:
    pieces = Pieces(tmp_path / "w", {"seed": 1, "budgets": (0.5,)})
    assert once(pieces, "a b", lambda: b"1234") == b"1234" and "a b" in Pieces(tmp_path / "w", pieces._job)
    again = Pieces(tmp_path / "w", {"seed": 1, "budgets": [0.5]})
    assert once(again, "a b", lambda: b"other") == b"1234"
    with pytest.raises(UsageError, match="another job"):
        Pieces(tmp_path / "w", {"seed": 2, "budgets": [0.5]})
    for data in (b"1235", b"123", b""):
        (tmp_path / "w" / "a-b").write_bytes(data)
        with pytest.raises(ModelError, match="damaged"):
            again.read("a b")
    (tmp_path / "w" / "a-b").unlink()
    with pytest.raises(ModelError, match="missing"):
        again.read("a b")
    for text in ("", "[]", '{"job": {}, "pieces": {"a": 1}}', '{"job": {}}'):
        (tmp_path / "w" / INDEX).write_text(text)
        with pytest.raises(ModelError):
            Pieces(tmp_path / "w", {})


@pytest.mark.parametrize(
    "change",
    [{"table": np.zeros((5, 3, 3), np.int64)}, {"table": np.full((5, 3, 4), -2)},
     {"nbytes": np.zeros((5, 3), np.int64)},
     {"states": np.full((5, 3, 16), np.nan, np.float32)}, {"states": np.zeros((5, 3, 16))}, {"more": np.zeros(1)}],
)  # fmt: skip
def test_devices_of_other_sizes_are_refused(change: dict[str, Any]) -> None:
    good = {"states": np.zeros((5, 3, 16), np.float32), "nbytes": np.ones((5, 3), np.int64)}
    good["table"] = np.zeros((5, 3, 4), np.int64)
    fleets._checked(fleets.dumps(good), (5, 3), 16, "x")
    for bad in (fleets.dumps(good | change), fleets.dumps(good)[:-1], b""):
        with pytest.raises(ModelError, match="5 devices"):
            fleets._checked(bad, (5, 3), 16, "x")


def test_groups_are_those_of_the_lengths(model: Tailored, split: Split, whole: Path) -> None:
    """The figures of a group are those of its devices; differences are from the trunk alone, on the same ones."""
    found, real = json.loads((whole / "report.json").read_text()), fleet(model, split)
    assert {row["policy"] for row in found["rows"]} == {*POLICIES, "intellectreq"}
    never = next(row for row in found["rows"] if row["policy"] == "every" and row["budget"] == 0)
    alone, old = ranks_of(real.table, np.full((DEVICES, 3), -1)), ranks_of(real.table, np.zeros((DEVICES, 3), np.int64))
    gained = [ndcg(ranks, 10).mean(1) for ranks in (old, alone)]
    for name, mine in (("tail users", slice(0, 4)), ("head users", slice(-4, None))):
        group = never["groups"][name]
        assert group["devices"] == 4 and group["ndcg@10"] == plain(old[mine])["ndcg@10"]
        assert found["static"]["groups"][name]["hr@10"] == plain(alone[mine])["hr@10"]
        assert group["against_trunk"] == differing(gained[0][mine], gained[1][mine])
    assert never["against_trunk"]["difference"] == pytest.approx((gained[0] - gained[1]).mean())
    tail, head = (never["groups"][name]["ndcg@10"] for name in ("tail users", "head users"))
    assert tail != head


def test_a_difference_has_a_small_p_where_all_gain() -> None:
    assert differing(np.full(30, 0.5), np.full(30, 0.25))["p"] < 0.01 < differing(np.ones(3), np.ones(3))["p"] == 1


def test_the_page_is_about_this_model(whole: Path, model: Tailored) -> None:
    page, found = (whole / "report.html").read_text(), json.loads((whole / "report.json").read_text())
    assert "duet on gru4rec, simulated" in page and found["manifest"] == model.manifest.digest
    assert found["budgets"] == list(BUDGETS) and found["settings"]["seed"] == 0 and found["data"]["split"] == "last-3"


def test_outcomes_leave_the_fleet_alone(model: Tailored, split: Split) -> None:
    real = fleet(model, split, devices=5)
    assert outcomes(real).alone.shape == (5,) and set(outcomes(real).groups) == {"tail users", "head users"}
    assert simulating.kept(None, "test", 5) == 0
