"""The systems by name: how each is trained, what its trunk carries, and what it sends."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
from torch import nn

from tailorbird.errors import UsageError
from tailorbird.tailor import diet, persona
from tailorbird.tailor.duet import Duet, Static, behind
from tailorbird.tailor.finetune import finetuned
from tailorbird.tailor.head import ACTIONS, NAMES, room, shapes
from tailorbird.tailor.learn import Settings, Told, heads_for, train
from tailorbird.tailor.manifest import MAX_PROTOTYPES, Action, Floats, Manifest, Tensors, manifest_of
from tailorbird.tailor.patch import Patch, full
from tailorbird.tailor.work import Work
from tailorbird.tasks.sequences.dataset import Ints
from tailorbird.tasks.sequences.split import Split
from tailorbird.zoo.recommenders.model import Recommender


@dataclass(frozen=True, kw_only=True)
class System(ABC):
    """What all have. The fields of a subclass are its options."""

    name: ClassVar[str]

    @abstractmethod
    def train(self, trunk: Recommender, split: Split, settings: Settings, told: Told, work: Work | None) -> nn.Module:
        """All stages, on a frozen trunk; see `learn.train`."""

    @abstractmethod
    def empty(self, width: int) -> nn.Module:
        """What makes heads, with tensors of no meaning."""

    def personal(self, maker: nn.Module) -> dict[str, Floats]:
        """Tensors the trunk carries beside its own, other than a head of zeros; as they are stored, see
        `head.unrolled`."""
        return {}

    def actions(self, name: str) -> tuple[Action, ...]:
        """What patches may do with a tensor of the head."""
        return ACTIONS

    def patches(
        self, trunk: Recommender, maker: nn.Module, histories: Sequence[Ints], window: int, manifest: Manifest
    ) -> list[Patch]:
        """A patch for every history: what the cloud does on requests."""
        heads = heads_for(trunk, maker, histories, window)
        values = {name: tensor.numpy() for name, tensor in heads.items()}
        return [full({n: v[row] for n, v in values.items()}, manifest) for row in range(len(histories))]

    def manifest(self, tensors: Tensors, reached: Mapping[str, float], model: str = "") -> Manifest:
        """What patches of this system may do to a trunk with its personal tensors, as far as `reached`; `model` as in
        `Manifest`."""
        actions = {name: self.actions(name) for name in NAMES}
        most = room(len(tensors[NAMES[1]]))
        return manifest_of(tensors, actions, max_abs=reached, max_bytes=most, model=model, **self.bounds())

    def bounds(self) -> dict[str, float]:
        """What else a manifest limits: ``clip`` and ``prototypes`` of `Manifest`."""
        return {"clip": 0.0, "prototypes": 0}


@dataclass(frozen=True, kw_only=True)
class DUET(System):
    """A head from nothing; see `duet`."""

    name: ClassVar[str] = "duet"
    form: ClassVar[type[nn.Module]] = Duet

    def train(self, trunk: Recommender, split: Split, settings: Settings, told: Told, work: Work | None) -> nn.Module:
        """One stage."""
        torch.manual_seed(settings.seed)
        maker = self.form(trunk.shape.width)
        train(trunk, maker, split, settings, told, work)
        return maker

    def empty(self, width: int) -> nn.Module:
        """See `System`."""
        return self.form(width)


@dataclass(frozen=True, kw_only=True)
class DIET(System):
    """A mask over one head for everybody; see `diet`.

    Attributes:
        share: of the weights of a layer that stay.
    """

    name: ClassVar[str] = "diet"
    form: ClassVar[type[diet.Masked]] = diet.Diet
    tied: ClassVar[bool] = False

    share: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what is no share.

        Raises:
            UsageError: see above.
        """
        if not 0 < self.share <= 1:
            raise UsageError(f"a share of {self.share}", hint="above 0, at most 1")

    def train(self, trunk: Recommender, split: Split, settings: Settings, told: Told, work: Work | None) -> nn.Module:
        """The head for everybody, then what masks it."""
        base = _static(trunk, split, settings, told, work, tied=self.tied)
        maker = self.form(base.head(), self.share)
        train(trunk, maker, split, settings, told, work, "masks")
        return maker

    def empty(self, width: int) -> nn.Module:
        """See `System`."""
        return self.form({name: torch.zeros(shape) for name, shape in shapes(width).items()}, self.share)

    def personal(self, maker: nn.Module) -> dict[str, Floats]:
        """The head that is masked."""
        assert isinstance(maker, diet.Masked)
        return {name: tensor.numpy() for name, tensor in maker.frozen().items()}

    def actions(self, name: str) -> tuple[Action, ...]:
        """Only layers are masked."""
        return ("mask",) if name in diet.LAYERS else ()

    def patches(
        self, trunk: Recommender, maker: nn.Module, histories: Sequence[Ints], window: int, manifest: Manifest
    ) -> list[Patch]:
        """Bits."""
        ids, counts = behind(list(histories), window or trunk.shape.length)
        assert isinstance(maker, diet.Masked)
        with torch.no_grad():
            masks = maker.masks(trunk.items(ids), counts)
        return [diet.patch_of(masks, row, manifest) for row in range(len(histories))]


@dataclass(frozen=True, kw_only=True)
class DIETING(DIET):
    """A mask a layer over one block that both layers share; see `diet`. Options as `DIET`."""

    name: ClassVar[str] = "dieting"
    form: ClassVar[type[diet.Masked]] = diet.Dieting
    tied: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Persona(System):
    """A bounded edit of a prototype; see `persona`.

    Attributes:
        groups: of users, each with a prototype.
        clip: the largest edit of a number.
        published: clipped edits of generators that stay random.
        dynamic: a user's prototype is the one whose editor wants the smallest edit.
    """

    name: ClassVar[str] = "persona"

    groups: int = 3
    clip: float = 0.5
    published: bool = False
    dynamic: bool = False

    def __post_init__(self) -> None:
        """Refuse what no trunk can carry.

        Raises:
            UsageError: no groups or too many, or a clip below 0.
        """
        if not 1 <= self.groups <= MAX_PROTOTYPES or not (math.isfinite(self.clip) and self.clip >= 0):
            raise UsageError(
                f"groups={self.groups}, clip={self.clip}", hint=f"1 to {MAX_PROTOTYPES} groups, a clip of 0 and more"
            )

    def bounds(self) -> dict[str, float]:
        """See `System`."""
        return {"clip": self.clip, "prototypes": self.groups}

    def train(self, trunk: Recommender, split: Split, settings: Settings, told: Told, work: Work | None) -> nn.Module:
        """The head for everybody, an editor, prototypes, an editor a group."""
        base = _static(trunk, split, settings, told, work)
        return persona.trained(trunk, base, split, settings, **asdict(self), told=told, work=work)

    def empty(self, width: int) -> nn.Module:
        """See `System`."""
        base = {name: torch.zeros(shape) for name, shape in shapes(width).items()}
        centres = torch.zeros(self.groups, persona.LAYERS * width)
        editor = persona.Editor(width, self.clip, published=self.published)
        return persona.Persona(base, editor, centres, dynamic=self.dynamic)

    def personal(self, maker: nn.Module) -> dict[str, Floats]:
        """The prototypes."""
        assert isinstance(maker, persona.Persona)
        heads = {name: maker.prototypes[persona.key(name)].detach().numpy() for name in NAMES}
        return {f"prototype.{k + 1}.{name}": heads[name][k] for k in range(self.groups) for name in NAMES}

    def actions(self, name: str) -> tuple[Action, ...]:
        """Edits."""
        return ("edit",)

    def patches(
        self, trunk: Recommender, maker: nn.Module, histories: Sequence[Ints], window: int, manifest: Manifest
    ) -> list[Patch]:
        """A prototype's number and int8 steps."""
        ids, counts = behind(list(histories), window or trunk.shape.length)
        assert isinstance(maker, persona.Persona)
        with torch.no_grad():
            groups, edits = maker.parts(trunk.items(ids), counts)
        return [persona.patch_of(maker, groups, edits, row, manifest) for row in range(len(histories))]


@dataclass(frozen=True, kw_only=True)
class FineTune(System):
    """No generator: gradient steps on the user's own events at every request; see `finetune`. What a trunk that nobody
    has tailored is simulated with."""

    name: ClassVar[str] = "finetune"

    def train(self, trunk: Recommender, split: Split, settings: Settings, told: Told, work: Work | None) -> nn.Module:
        """Nothing is learnt beforehand."""
        return self.empty(trunk.shape.width)

    def empty(self, width: int) -> nn.Module:
        """The head that steps begin with."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Static(width)

    def patches(
        self, trunk: Recommender, maker: nn.Module, histories: Sequence[Ints], window: int, manifest: Manifest
    ) -> list[Patch]:
        """Heads of gradient steps."""
        assert isinstance(maker, Static)
        made = finetuned(trunk, maker.head(), histories, events=window or trunk.shape.length)
        return [full({n: v[row] for n, v in made.items()}, manifest) for row in range(len(histories))]


SYSTEMS: dict[str, type[System]] = {kind.name: kind for kind in (DUET, DIET, DIETING, Persona)}


def find(name: str) -> type[System]:
    """A system that is trained, by name.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in SYSTEMS:
        raise UsageError(f"there is no system {name!r}", hint=f"there are: {', '.join(SYSTEMS)}")
    return SYSTEMS[name]


def _static(
    trunk: Recommender, split: Split, settings: Settings, told: Told, work: Work | None, *, tied: bool = False
) -> Static:
    torch.manual_seed(settings.seed)
    base = Static(trunk.shape.width, tied=tied)
    train(trunk, base, split, settings, told, work, "head")
    return base
