"""What tailoring costs: processor seconds of one thread, the best of several runs, and bytes on the wire."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tailorbird.tailor.device import Device
from tailorbird.tailor.duet import Duet
from tailorbird.tailor.folder import Tailored, tensors_of
from tailorbird.tailor.head import manifest_for, shapes
from tailorbird.tailor.patch import full
from tailorbird.tailor.staleness import TOLERANCE, Stream
from tailorbird.tailor.wire import encode
from tailorbird.zoo.recommenders import find
from tailorbird.zoo.recommenders.model import Shape

WIDTH, BATCH, RUNS = 32, 2048, 7
AT_ONCE, ENCODED = 512, 64  # users a cloud makes patches for at once, and patches of them whose encoding is timed
Row = dict[str, Any]


def cost() -> Row:
    """Heads a second on one core, bytes of one, and what a device pays."""
    torch.manual_seed(0)
    maker = Duet(WIDTH).eval()
    trunk = find("sasrec")(Shape(3000, length=20, width=WIDTH, layers=1)).eval()
    tensors = tensors_of(trunk)
    manifest = manifest_for(tensors)
    row: Row = {"width": WIDTH, "numbers": sum(int(np.prod(shape)) for shape in shapes(WIDTH).values()), "batch": BATCH}
    with torch.no_grad():
        codes = torch.randn(BATCH, WIDTH)
        row["heads_per_s_from_codes"] = BATCH / seconds(lambda: maker.heads(codes))
        for length in (10, 20):
            vectors, counts = torch.randn(BATCH, length, WIDTH), torch.full((BATCH,), length)
            row[f"heads_per_s_from_{length}_events"] = BATCH / seconds(lambda v=vectors, c=counts: maker(v, c))
    random = np.random.default_rng(0)
    head = {name: (0.3 * random.standard_normal(shape)).astype(np.float32) for name, shape in shapes(WIDTH).items()}
    message = encode(full(head, manifest), tensors, manifest, tolerance=TOLERANCE)
    device = Device("sasrec", trunk.shape.to_json(), tensors, manifest)
    row["payload_bytes"] = len(message)
    row["encode_ms"] = 1000 * seconds(lambda: encode(full(head, manifest), tensors, manifest, tolerance=TOLERANCE))
    row["apply_ms"] = 1000 * seconds(lambda: device.take(message))
    row["score_ms"] = 1000 * seconds(lambda: device.scores(list(range(1, 21))))
    print(json.dumps(row, indent=1))
    return row


def in_the_cloud(made: Tailored, stream: Stream, at_once: int = AT_ONCE) -> Row:
    """Milliseconds a user: to make patches, so many at once, and to encode one after another."""
    histories = [stream.history(device, -1) for device in range(min(at_once, len(stream.users)))]
    patches, tensors = made.patches(histories[:ENCODED]), made.tensors

    def encoded() -> None:
        for patch in patches:
            encode(patch, tensors, made.manifest, tolerance=TOLERANCE)

    return {
        "make_ms": 1000 * seconds(lambda: made.patches(histories)) / len(histories),
        "encode_ms": 1000 * seconds(encoded) / len(patches),
    }


def seconds(work: Callable[[], Any], enough: float = 0.2) -> float:
    """Processor seconds of one call, the best of `RUNS` loops."""
    work()
    start = time.process_time()
    work()
    times = max(1, int(enough / max(time.process_time() - start, 1e-6) / RUNS))
    best = float("inf")
    for _ in range(RUNS):
        start = time.process_time()
        for _ in range(times):
            work()
        best = min(best, (time.process_time() - start) / times)
    return best
