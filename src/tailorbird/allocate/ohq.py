"""OHQ's objective: sensitivity and measured time of every part and format, each brought to [0, 1] and weighted.

Source: On-chip hardware-aware quantization, arXiv 2309.01945. Its equations were not found; the min-max normalisation
over the whole table and the weights are a reconstruction (alpha 0.6, beta and gamma 0.2 each). Energy can't be measured
from here, so its term is left out and the two others share the whole.
"""

from __future__ import annotations

import numpy as np

from tailorbird.allocate.solve import Array

ALPHA, BETA = 0.75, 0.25


def objective(sensitivity: Array, milliseconds: Array | None, alpha: float = ALPHA, beta: float = BETA) -> Array:
    """What OHQ's integer program minimises, for `solve`.

    Args:
        sensitivity: (sites, options); infinite where a site has fewer options.
        milliseconds: measured, likewise; None where no device was named: then sensitivity is all there is.
        alpha: weight of the sensitivity.
        beta: weight of the time.

    Returns:
        float (sites, options).
    """
    if milliseconds is None:
        return normalised(sensitivity)
    return alpha * normalised(sensitivity) + beta * normalised(milliseconds)


def normalised(table: Array) -> Array:
    """Values between the least and the largest of the whole table, as 0 to 1; missing options stay infinite."""
    there = np.isfinite(table)
    low, high = table[there].min(), table[there].max()
    return np.where(there, (table - low) / (high - low) if high > low else 0.0, np.inf)
