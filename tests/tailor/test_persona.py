"""Persona: bounded edits of prototypes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tailorbird.tailor.duet import Static, behind, through
from tailorbird.tailor.head import ACTIONS, NAMES, with_head
from tailorbird.tailor.learn import Settings, train
from tailorbird.tailor.manifest import manifest_of
from tailorbird.tailor.persona import LAYERS, Editor, Persona, bounded, key, patch_of, trained
from tailorbird.tailor.wire import encode, receive
from tailorbird.tasks.sequences.dataset import Sequences
from tailorbird.tasks.sequences.metrics import auc
from tailorbird.tasks.sequences.split import leave_one_out

from .conftest import WIDTH, arrays, made, random_head

HISTORIES = [np.array([3, 1, 4]), np.array([2, 7, 1, 8]), np.array([5, 5])]
HEAD = {name: torch.from_numpy(value) for name, value in random_head().items()}


def shaken(clip: float = 0.5, published: bool = False) -> Editor:
    torch.manual_seed(2)
    editor = Editor(WIDTH, clip, published=published)
    with torch.no_grad():
        for weight in () if published else editor.weights:
            weight.add_(torch.randn_like(weight))
    return editor


def persona(clip: float = 0.5, **options: bool) -> tuple[Persona, torch.Tensor, torch.Tensor]:
    """Two groups, told apart by the sign of the first code, with prototypes and editors of their own."""
    model, editor = made("sasrec"), shaken(clip)
    ids, counts = behind(HISTORIES, 8)
    vectors = model.items(ids).detach()
    codes = editor.codes(vectors, counts).detach().flatten(1)
    found = Persona(HEAD, editor, codes[:2].clone(), **options)
    with torch.no_grad():
        for value in found.prototypes.values():
            value[1] += 0.1
        for weight in found.editors[1].weights:
            weight.mul_(1.3)
    return found, vectors, counts


def test_no_edit_is_the_prototype() -> None:
    found, vectors, counts = persona(clip=0.0)
    groups, heads = found.groups(vectors, counts), found(vectors, counts)
    assert groups[:2].tolist() == [0, 1]
    state = torch.randn(3, WIDTH)
    wanted = {name: found.prototypes[key(name)][groups] for name in NAMES}
    torch.testing.assert_close(through(state, heads), through(state, wanted), atol=1e-6, rtol=0)


@pytest.mark.parametrize("published", [False, True])
def test_edits_are_bounded(published: bool) -> None:
    model, editor = made("sasrec"), shaken(0.2, published)
    ids, counts = behind(HISTORIES, 8)
    edits = editor(model.items(ids), counts)
    assert 0.1 < max(float(edit.detach().abs().max()) for edit in edits.values()) <= 0.2 + 1e-7
    free = torch.linspace(-3, 3, 7)
    torch.testing.assert_close(bounded(free, 1e6), free, rtol=1e-3, atol=1e-3)


def test_layers_know_of_each_other() -> None:
    """A code a layer, of a recurrent network fed with as many copies; they differ."""
    model, editor = made("sasrec"), shaken()
    ids, counts = behind(HISTORIES, 8)
    codes = editor.codes(model.items(ids), counts)
    assert codes.shape == (3, LAYERS, WIDTH) and codes.abs().max() <= 1
    assert not torch.allclose(codes[:, 0], codes[:, 1])


def test_one_layer_is_one_step_of_a_gru() -> None:
    model, editor = made("sasrec"), shaken()
    cell = torch.nn.GRUCell(WIDTH, WIDTH)
    editor.across = torch.nn.GRU(WIDTH, WIDTH, 1, batch_first=True)
    editor.across.load_state_dict({f"{name}_l0": value for name, value in cell.state_dict().items()})
    ids, counts = behind(HISTORIES, 8)
    with torch.no_grad():
        read, _ = editor.gru(torch.tanh(editor.into(model.items(ids) * WIDTH**0.5)))
        q = editor.code(read[torch.arange(3), counts - 1])
        wanted = torch.tanh(editor.layer(cell(q)))
        torch.testing.assert_close(editor.codes(model.items(ids), counts), wanted[:, None])


def test_smallest_edit_decides() -> None:
    found, vectors, counts = persona(dynamic=True)
    assert found.groups(vectors, counts).tolist() == [0, 0, 0]  # the second group's editors want more


def test_a_patch_is_a_number_and_steps() -> None:
    found, vectors, counts = persona()
    trunk = with_head(arrays(made("sasrec")), WIDTH)
    for number in range(2):
        trunk |= {f"prototype.{number + 1}.{n}": found.prototypes[key(n)][number].detach().numpy() for n in NAMES}
    bounds = dict.fromkeys(NAMES, 8.0)
    manifest = manifest_of(trunk, dict.fromkeys(NAMES, ACTIONS), max_abs=bounds, prototypes=2, clip=0.5)
    groups, edits = found.parts(vectors, counts)
    heads = found(vectors, counts)
    for row in range(3):
        patch = patch_of(found, groups, edits, row, manifest)
        got = receive(encode(patch, trunk, manifest), trunk, manifest)
        assert patch.prototype == groups[row] + 1 and patch.nbytes == 2 * WIDTH * (WIDTH + 1)
        for name in NAMES:
            np.testing.assert_allclose(got[name], heads[name][row].detach().numpy(), atol=0.51 * 0.5 / 127)


def test_all_stages(cycles: Sequences) -> None:
    """Groups, prototypes that differ, and nothing of the trunk or the first editor moves after its stage."""
    trunk = made("gru4rec", items=12)
    before = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    torch.manual_seed(0)
    found = trained(trunk, Static(WIDTH), leave_one_out(cycles), Settings(epochs=2, batch=64, rate=0.01), groups=2)
    assert all(torch.equal(before[name], tensor) for name, tensor in trunk.state_dict().items())
    prototypes = found.prototypes[key("head.1.weight")]
    assert not torch.equal(prototypes[0], prototypes[1])
    ids, counts = behind([cycles.of(user)[:-1] for user in range(cycles.users)], 8)
    assert len(found.groups(trunk.items(ids), counts).unique()) == 2


def planted(users: int = 160, seed: int = 0) -> tuple[Sequences, np.ndarray]:
    """Two groups with opposite preferences: four events in five are low numbers for one, high ones for the other."""
    random = np.random.default_rng(seed)
    group = np.arange(users) % 2
    runs = [random.integers(1, 7, 10) + 6 * (g ^ (random.random(10) < 0.2)) for g in group]
    offsets = np.cumsum([0, *map(len, runs)])
    return Sequences("planted", offsets, np.concatenate(runs), 12), group


def test_planted_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clusters find them, a group's prototype beats the head for all, the smallest edit finds the same prototype where
    no edit is at its bound, and the last stage trains the editors and nothing else."""
    data, group = planted()
    split, settings, trunk = leave_one_out(data), Settings(epochs=6, batch=64, rate=0.003), made("gru4rec", items=12)
    torch.manual_seed(0)
    base, counted = Static(WIDTH), {}
    train(trunk, base, split, settings)

    def counting(*args: Any) -> Any:
        counted[args[6]] = sum(p.numel() for p in args[1].parameters() if p.requires_grad)
        return train(*args)

    monkeypatch.setattr("tailorbird.tailor.persona.train", counting)
    found = trained(trunk, base, split, settings, groups=2, clip=5.0)
    head = 2 * WIDTH * (WIDTH + 1)
    assert counted["prototypes"] == 2 * head
    grus, dense = 3 * 6 * WIDTH * (WIDTH + 1), 5 * WIDTH * (WIDTH + 1)
    assert counted["editors"] == 2 * counted["editor"] == 2 * (WIDTH * head + grus + dense)

    histories = [data.of(user)[:-1] for user in range(data.users)]
    ids, counts = behind(histories, 8)
    mine = found.groups(trunk.items(ids), counts)
    same = (mine.numpy() == group).mean()
    assert max(same, 1 - same) > 0.9

    def area(heads: dict[str, torch.Tensor]) -> float:
        with torch.no_grad():
            scores = trunk.scores(through(trunk.last(trunk.window(histories)), heads))[:, 1:]
        follows = np.arange(1, 13) == data.items[data.offsets[1:] - 1][:, None]
        return auc(follows.ravel(), scores.double().numpy().ravel())

    own = area({name: found.prototypes[key(name)][mine] for name in NAMES})
    assert own > area(base(ids, counts)) + 0.1
    found.dynamic = True
    assert (found.groups(trunk.items(ids), counts) == mine).float().mean() > 0.9
