"""The kernels' own threads: several callers, other sizes, and life after fork."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch

from tailorbird.errors import UsageError
from tailorbird.formats import PlaneSpec
from tailorbird.kernels import native
from tailorbird.kernels.matrix import PackedMatrix


@pytest.fixture
def matrix(extension: Any, packed: Any) -> PackedMatrix:
    planes, _ = packed(2048, PlaneSpec.uniform(4, 256, 64), 0)
    return PackedMatrix.from_arrays(planes.rows, planes.spec.bits, 64, planes.arrays)


def test_callers_in_several_threads(matrix: PackedMatrix, extension: Any) -> None:
    inputs = [torch.randn(n, 256) for n in (1, 3, 8, 20)]
    expected = [(matrix.matmul(x), matrix.matmul(x, "fp32")) for x in inputs]
    wrong: list[int] = []

    def call(which: int) -> None:
        for turn in range(20):
            mode: Any = ("int8", "fp32")[turn % 2]
            if not torch.equal(matrix.matmul(inputs[which], mode), expected[which][turn % 2]):
                wrong.append(which)
            if which == 0 and turn % 5 == 0:
                native.set_threads(1 + turn % 4)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_sizes(matrix: PackedMatrix, extension: Any) -> None:
    x = torch.randn(2, 256)
    expected = matrix.matmul(x)
    for threads in (1, 2, 5, 1):
        native.set_threads(threads)
        assert extension.threads() == threads
        assert torch.equal(matrix.matmul(x), expected)
    native.set_threads(0)
    assert extension.threads() == min(256, len(os.sched_getaffinity(0)))
    for wrong in (-1, 257):
        with pytest.raises(UsageError, match="threads is"):
            native.set_threads(wrong)


FORK = """
import os, threading, warnings
import torch
from tailorbird.kernels import native
from tailorbird.kernels.matrix import PackedMatrix, Run

warnings.simplefilter("ignore")  # forking beside threads is what is tested
native.set_threads(3)
run = Run(bits=2, groups=[0, 1], codes=torch.randint(0, 4, (4096, 256), dtype=torch.uint8),
          scales=torch.ones(4096, 2).half())
matrix = PackedMatrix.from_runs(4096, 2, 128, [run])
x = torch.randn(12, 256)
expected = matrix.matmul(x)
stop = False


def busy():
    while not stop:
        matrix.matmul(x)


threading.Thread(target=busy).start()
for _ in range(10):
    child = os.fork()
    if child == 0:
        same = torch.equal(matrix.matmul(x), expected)
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(0 if same and torch.equal(matrix.matmul(x), expected) else 1)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert torch.equal(matrix.matmul(x), expected)
stop = True
print("fine")
"""


def test_a_child_after_fork_has_threads_of_its_own(extension: Any) -> None:
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("fine\n", 0), done.stderr
