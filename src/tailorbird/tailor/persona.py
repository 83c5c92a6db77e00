"""Persona: a bounded edit of a prototype's head in place of a head from nothing (Lv et al., arXiv 2509.06552).

An editor turns the user's latest events into one code a layer of the head: the encoder's code runs through a recurrent
network with as many layers as the head, so that layers know of each other. One editor is trained on one base head
first; clusters of its codes are the groups; every group has a prototype, the base trained on its own events, and an
editor of its own. A patch is the prototype's number and int8 steps of the edit.

By default edits are bounded by clip * tanh(edit / clip), which passes a gradient everywhere, and begin at zero; what is
common to all edits of a group is its prototype's. `published=True` clips, and has random generators, constants
included, that no optimiser knows (saved all the same, as buffers). Groups are those of the first editor, whose codes
made the centres, or with `dynamic` those whose editor wants the smallest edit; they are trained by the first rule in
both cases, since editors that are equal, as all are at first, want equal edits.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn

from tailorbird.errors import DataError
from tailorbird.tailor.duet import Heads, Static
from tailorbird.tailor.head import NAMES, shapes
from tailorbird.tailor.learn import Settings, Told, batches, train
from tailorbird.tailor.manifest import Manifest
from tailorbird.tailor.patch import STEPS, Body, Patch
from tailorbird.tailor.work import Work
from tailorbird.tasks.sequences.split import Split
from tailorbird.zoo.recommenders.model import Recommender

LAYERS = 2
SAMPLES = 4096  # codes that are clustered


class Editor(nn.Module):
    """Item vectors of a window to edits of a head."""

    def __init__(self, width: int, clip: float, *, published: bool = False) -> None:
        super().__init__()
        self.width, self.clip, self.published = width, clip, published
        self.into, self.gru = nn.Linear(width, width), nn.GRU(width, width, batch_first=True)
        self.code = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))
        self.across = nn.GRU(width, width, LAYERS, batch_first=True)
        self.layer = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))  # shared by all layers
        sizes = [math.prod(shape) for shape in shapes(width).values()]
        if not published:
            self.weights = nn.ParameterList(torch.zeros(width, size) for size in sizes)
            return
        for place, size in enumerate(sizes):
            self.register_buffer(f"weight{place}", torch.randn(width, size).fmod(2))
            self.register_buffer(f"bias{place}", torch.randn(size).fmod(2))

    def codes(self, vectors: Tensor, counts: Tensor) -> Tensor:
        """(batch, layers, width), between -1 and 1; arguments as `Duet.codes`."""
        states, _ = self.gru(torch.tanh(self.into(vectors * math.sqrt(self.width))))
        q = self.code(states[torch.arange(len(states)), (counts - 1).clamp(min=0)])
        _, last = self.across(q[:, None].expand(-1, self.across.num_layers, -1).contiguous())
        found: Tensor = torch.tanh(self.layer(last.transpose(0, 1)))
        return found

    def forward(self, vectors: Tensor, counts: Tensor) -> Heads:
        """What is added to every tensor of a head, (batch, *shape), none above the clip."""
        codes = self.codes(vectors, counts)
        edits = {}
        for place, (name, shape) in enumerate(shapes(self.width).items()):
            code = codes[:, place // 2]
            if self.published:
                free = code @ self.get_buffer(f"weight{place}") + self.get_buffer(f"bias{place}")
                edits[name] = free.reshape(-1, *shape).clamp(-self.clip, self.clip)
            else:
                edits[name] = bounded((code @ self.weights[place]).reshape(-1, *shape), self.clip)
        return edits


class Persona(nn.Module):
    """Prototypes, an editor for each, and who belongs to which.

    Args:
        base: the head that all prototypes begin with.
        first: the editor whose codes made the centres; every group's editor begins as a copy of it.
        centres: (groups, layers * width).
        dynamic: assign by the smallest edit.
    """

    residual = True

    def __init__(self, base: Mapping[str, Tensor], first: Editor, centres: Tensor, *, dynamic: bool = False) -> None:
        super().__init__()
        self.first, self.dynamic, self.edits = first.requires_grad_(False), dynamic, True
        self.centres: Tensor
        self.register_buffer("centres", centres)
        self.editors = nn.ModuleList(copy.deepcopy(first) for _ in centres)
        self.prototypes = nn.ParameterDict(
            {key(name): torch.stack([base[name].detach()] * len(centres)) for name in NAMES}
        )

    def groups(self, vectors: Tensor, counts: Tensor) -> Tensor:
        """The number of every row's prototype, from 0; int64 (batch,)."""
        with torch.no_grad():
            if self.dynamic:
                sizes = [_size(editor(vectors, counts)) for editor in self.editors]
                return torch.stack(sizes).argmin(0)
            codes = self.first.codes(vectors, counts).flatten(1)
            return torch.cdist(codes, self.centres).argmin(1)

    def parts(self, vectors: Tensor, counts: Tensor) -> tuple[Tensor, Heads]:
        """Groups, and the edits of every row by the editor of its group."""
        groups = self.groups(vectors, counts)
        edits = {name: vectors.new_zeros(len(vectors), *shape) for name, shape in shapes(self.first.width).items()}
        for number, editor in enumerate(self.editors):
            rows = torch.nonzero(groups == number)[:, 0]
            if self.edits and len(rows):
                mine = editor(vectors[rows], counts[rows])
                edits = {name: edit.index_add(0, rows, mine[name]) for name, edit in edits.items()}
        return groups, edits

    def forward(self, vectors: Tensor, counts: Tensor) -> Heads:
        """See `Duet.forward`."""
        groups, edits = self.parts(vectors, counts)
        return {name: self.prototypes[key(name)][groups] + edit for name, edit in edits.items()}


class Edited(nn.Module):
    """One editor on one frozen head: the first stage."""

    residual = True

    def __init__(self, base: Mapping[str, Tensor], editor: Editor) -> None:
        super().__init__()
        self.editor, self.base = editor, {name: base[name].detach() for name in NAMES}

    def forward(self, vectors: Tensor, counts: Tensor) -> Heads:
        """See `Duet.forward`."""
        return {name: self.base[name] + edit for name, edit in self.editor(vectors, counts).items()}


def trained(
    trunk: Recommender,
    base: Static,
    split: Split,
    settings: Settings,
    *,
    groups: int = 3,
    clip: float = 0.5,
    published: bool = False,
    dynamic: bool = False,
    told: Told = lambda row: None,
    work: Work | None = None,
) -> Persona:
    """All stages: an editor on the base, groups, prototypes on their own events, an editor a group.

    Args:
        trunk: frozen.
        base: a trained head for everybody.
        split: training events and validation cases, on which every stage chooses its epoch.
        settings: of every stage.
        groups: clusters of codes.
        clip: the largest edit of a number.
        published, dynamic: see above.
        told, work: see `learn.train`; the stages are ``editor``, ``prototypes`` and ``editors``.

    Raises:
        DataError: the codes have fewer clusters.
    """
    torch.manual_seed(settings.seed)
    head = base.head()
    editor = Editor(trunk.shape.width, clip, published=published)
    train(trunk, Edited(head, editor), split, settings, told, work, "editor")
    made = Persona(head, editor, clustered(trunk, editor, split, settings, groups))
    made.edits = False
    made.editors.requires_grad_(False)
    train(trunk, made, split, settings, told, work, "prototypes")
    made.edits = True
    made.editors.requires_grad_(True)
    made.prototypes.requires_grad_(False)
    train(trunk, made, split, replace(settings, seed=settings.seed + 1), told, work, "editors")
    made.dynamic = dynamic
    return made.requires_grad_(False)


def clustered(trunk: Recommender, editor: Editor, split: Split, settings: Settings, groups: int) -> Tensor:
    """Centres of the codes of training events, (groups, layers * width).

    Raises:
        DataError: a cluster is empty.
    """
    random = np.random.default_rng(settings.seed)
    drawn = batches(split, trunk.shape.length, replace(settings, samples=SAMPLES, lag=0), random)
    with torch.no_grad():
        codes = torch.cat([editor.codes(trunk.items(then), counts).flatten(1) for _, then, counts, _ in drawn])
    centres, places = kmeans2(codes.double().numpy(), groups, minit="++", seed=settings.seed)
    if len(np.unique(places)) < groups:
        raise DataError(f"the codes have no {groups} clusters", hint="take fewer groups")
    return torch.from_numpy(centres).float()


def patch_of(made: Persona, groups: Tensor, edits: Heads, row: int, manifest: Manifest) -> Patch:
    """The patch of one row of `Persona.parts`; the manifest's prototypes are those of `made`, from 1."""
    step = manifest.clip / STEPS
    body: dict[str, Body] = {
        name: (np.rint(edit[row].detach().numpy() / step).clip(-STEPS, STEPS).astype("i1"),)
        for name, edit in edits.items()
    }
    return Patch(manifest.trunk, "prototype", body, prototype=int(groups[row]) + 1)


def _size(edits: Heads) -> Tensor:
    """Squares of the edits of weights, biases apart, (batch,)."""
    return torch.stack([edits[name].flatten(1).square().sum(1) for name in (NAMES[0], NAMES[2])]).sum(0)


def bounded(edit: Tensor, clip: float) -> Tensor:
    """Between -clip and clip, with a gradient everywhere; 0 where clip is."""
    return clip * torch.tanh(edit / clip) if clip else torch.zeros_like(edit)


def key(name: str) -> str:
    """A tensor's name without dots, as torch wants it."""
    return name.replace(".", "_")
