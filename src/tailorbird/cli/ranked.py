"""``tailorbird evaluate`` on a recommender: the test of its own data and split, by full ranking or among candidates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tailorbird.cli.session import Session
from tailorbird.errors import UsageError


def evaluated(model: str, candidates: Path | None, draw: int, seed: int, this: Session) -> bool:
    """Rank the test with a recommender and show the figures; false where the model is none.

    Raises:
        UsageError: candidates for what is no recommender, or a number of them without a file.
    """
    if draw and candidates is None:
        raise UsageError("--draw without --candidates", hint="name the file that is to keep them")
    if not (Path(model) / "recommender.json").is_file():
        if candidates is not None:
            raise UsageError(f"{model} is no recommender, so it has no candidates", hint="see tailorbird train")
        return False
    found = _figures(Path(model), candidates, draw, seed)
    if this.json:
        this.emit(found)
    else:
        this.line(f"{found['model']} on {found['data']['name']}, {found['data']['split']}; {found['protocol']}")
        show_figures(this, found["figures"])
    return True


def _figures(path: Path, candidates: Path | None, draw: int, seed: int) -> dict[str, Any]:
    from tailorbird.tailor.run import split_of
    from tailorbird.tailor.trunk import read
    from tailorbird.tasks.sequences import candidates as among
    from tailorbird.tasks.sequences import store
    from tailorbird.zoo.recommenders.run import figures

    model, about = read(path)
    split = split_of(about, store.load(about["data"]["name"]))
    drawn = None
    if candidates is not None:
        drawn = among.draw(candidates, split, draw, seed) if draw else among.read(candidates, split)
    return {"model": model.name, "data": about["data"], **figures(model, split, candidates=drawn)}


def show_figures(this: Session, figures: dict[str, Any]) -> None:
    """Figures of a test with their intervals, a line each."""
    wide = max(map(len, figures))
    for name, value in figures.items():
        bare = isinstance(value, float)
        text = f"{value:.4f}" if bare else f"{value['mean']:.4f}  [{value['low']:.4f}, {value['high']:.4f}]"
        this.line(f"  {name:{wide}} {text}")
