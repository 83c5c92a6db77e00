"""Jobs that are killed, interrupted or run out of disk, each in a forked process; run by the tests as a script.

    python killed.py SCENARIO WORK SEED KILLS

The parent imports everything once and then only forks, so that an attempt takes a fraction of a second. Prints one
JSON object.
"""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import tiny
import torch

import tailorbird.artifact.verify as verifying
import tailorbird.formats.safetensors_write as writing
from tailorbird.artifact import Artifact
from tailorbird.errors import ResourceError
from tailorbird.pipeline import compress

torch.set_num_threads(1)
Hook = Callable[[], None]
# The moments of a job: before every one of these calls, and inside the verification.
MOMENTS = [(os, name) for name in ("fsync", "replace", "rename", "unlink", "rmdir", "mkdir", "open", "scandir", "stat")]
MOMENTS += [(writing, "raw_bytes"), (verifying, "_run"), (verifying, "weight_digest"), (Artifact, "planes")]
HERE = verifying.verify


class Job:
    """One artifact to be made of one model."""

    def __init__(self, work: Path, method: str = "gptq", **options: Any) -> None:
        self.work, self.method, self.options = work, method, options
        tiny.make_model("untied", work / "model", num_hidden_layers=5)
        tiny.make_text(work / "text.txt")

    def run(self, out: str, resume: bool) -> str:
        made = compress(
            self.work / "model", self.work / out, method=self.method, budget="5bits", data=self.work / "text.txt",
            samples=16, length=48, options=self.options, resume=resume,
        )  # fmt: skip
        assert made.artifact.manifest.verified and len(made.facts) == len(made.artifact.plan.parts)
        return made.artifact.digest

    def attempt(self, out: str, resume: bool, hook: Hook | None = None, within: float | None = None) -> int | str:
        """Run in a forked process; returns the signal that ended it, the error's name, or ``done``."""
        pid = os.fork()
        if pid == 0:
            os.setsid()
            status = 0
            try:
                if hook:
                    hook()
                Path(self.work / "digest").write_text(self.run(out, resume))
            except KeyboardInterrupt:
                status = 3
            except ResourceError as error:
                assert "--resume" in error.hint
                status = 4
            except BaseException:
                traceback.print_exc()
                status = 5
            sys.stderr.flush()
            os._exit(status)
        if within is not None:
            time.sleep(within)
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            return os.WTERMSIG(status)
        return {0: "done", 3: "interrupted", 4: "full"}.get(os.WEXITSTATUS(status), "failed")

    def digest(self) -> str:
        return (self.work / "digest").read_text()


def counted(action: Callable[[int], None]) -> None:
    """Call `action` with 1, 2, 3, ... before every moment of this process from now on."""
    seen = 0

    def wrapped(plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal seen
            seen += 1
            action(seen)
            return plain(*args, **kwargs)

        return call

    for owner, name in MOMENTS:
        setattr(owner, name, wrapped(getattr(owner, name)))


def strike(at: int, number: int) -> Hook:
    """Send a signal to oneself at the moment `at`."""
    return lambda: counted(lambda seen: os.kill(os.getpid(), number) if seen == at else None)


def moments(job: Job) -> int:
    """How many moments an undisturbed job has; leaves its digest as the one to compare with."""
    counter = job.work / "count"

    def hook() -> None:
        numbers = []
        counted(numbers.append)
        plain = os._exit

        def leave(status: int) -> None:
            counter.write_text(str(len(numbers)))
            plain(status)

        os._exit = leave

    assert job.attempt("plain", False, hook) == "done"
    return int(counter.read_text())


def until_done(job: Job, out: str, next_hook: Callable[[], dict[str, Any]]) -> list[Any]:
    """Start, and resume as often as it takes; returns how each attempt but the last ended."""
    ends: list[Any] = []
    while True:
        end = job.attempt(out, bool(ends), **next_hook())
        if end == "done":
            return ends
        ends.append(end)
        assert end != "failed", ends


def signals(job: Job, seed: int, kills: int, number: int) -> dict[str, Any]:
    """Signals at random moments of the job, counted by calls."""
    rng, total = random.Random(seed), moments(job)
    wanted, ends, digests = job.digest(), [], []
    while len(ends) < kills:
        out = f"out-{len(digests)}"
        found = until_done(job, out, lambda: {"hook": strike(rng.randrange(1, total), number)})
        ends += found
        digests.append(job.digest())
        left = [path.name for path in job.work.glob(f"{out}*") if path.name != out]
        left += [path.name for path in (job.work / out).iterdir() if path.name.startswith(".") or path.is_dir()]
        assert not left, left
    return {"ends": ends, "same": set(digests) == {wanted}, "moments": total}


def times(job: Job, seed: int, kills: int) -> dict[str, Any]:
    """SIGKILL from outside, at random times."""
    rng = random.Random(seed)
    start = time.perf_counter()
    assert job.attempt("plain", False) == "done"
    whole = time.perf_counter() - start
    wanted, ends, digests = job.digest(), [], []
    while len(ends) < kills:
        # After four the job is left alone, so that slow machines come to an end too.
        tries = iter([rng.random() * whole for _ in range(4)])
        found = until_done(job, f"out-{len(digests)}", lambda tries=tries: {"within": next(tries, None)})
        ends += found
        digests.append(job.digest())
    return {"ends": ends, "same": set(digests) == {wanted}}


def after_rename(job: Job) -> dict[str, Any]:
    """Killed when the artifact has its name and is not verified, and again when it is but the work is still there."""
    moments(job)
    wanted = job.digest()

    def before_verifying() -> None:
        verifying._verify_afresh = lambda folder: os.kill(os.getpid(), signal.SIGKILL)

    def after_verifying() -> None:
        shutil.rmtree = lambda path, **k: os.kill(os.getpid(), signal.SIGKILL) if Path(path).name == "work" else None

    ends = [job.attempt("out", False, before_verifying)]
    unverified = not Artifact.open(job.work / "out").manifest.verified
    ends.append(job.attempt("out", True, after_verifying))
    ends.append(job.attempt("out", True))
    ends.append(job.attempt("out", True))
    return {"ends": ends, "unverified": unverified, "same": job.digest() == wanted}


def full(job: Job, seed: int, kills: int) -> dict[str, Any]:
    """A limit on the size of files, then no space left from a random call on."""
    rng = random.Random(seed)
    moments(job)
    wanted, ends = job.digest(), []

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.RLIM_INFINITY))

    def no_space() -> None:
        last, code = rng.randrange(30), rng.choice([errno.ENOSPC, errno.EDQUOT])
        plain = {name: getattr(os, name) for name in ("fsync", "mkdir", "replace")}
        seen = 0

        def stop(name: str) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal seen
                seen += 1
                if seen > last:
                    raise OSError(code, os.strerror(code))
                return plain[name](*args, **kwargs)

            return call

        for name in plain:
            setattr(os, name, stop(name))

    for number in range(kills):
        rng.random()  # the forked process draws from a copy
        ends.append(job.attempt("out", number > 0, limited if number == 0 else no_space))
    ends.append(job.attempt("out", True))
    return {"ends": ends, "same": job.digest() == wanted}


def main() -> None:
    scenario, work, seed, kills = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    if scenario != "afresh":
        verifying._verify_afresh = HERE
    job = Job(work, "autoround", iterations=3) if scenario == "learn" else Job(work)
    found = {
        "kill": lambda: signals(job, seed, kills, signal.SIGKILL),
        "learn": lambda: signals(job, seed, kills, signal.SIGKILL),
        "interrupt": lambda: signals(job, seed, kills, signal.SIGINT),
        "times": lambda: times(job, seed, kills),
        "afresh": lambda: times(job, seed, kills),
        "rename": lambda: after_rename(job),
        "full": lambda: full(job, seed, kills),
    }[scenario]()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
