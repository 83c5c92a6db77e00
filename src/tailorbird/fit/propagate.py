"""Propagation of errors: a layer's weights make up for what its inputs lost to the blocks before it.

Layer by layer, a fit asks for ``W x`` where x is what reaches the layer through compressed weights. The uncompressed
layer reads y there, and gives ``W y``. The weights that come nearest to that from x are, by least squares,
``W + W D H^-1`` with H = sum of x x^T and D = sum of (y - x) x^T; they are what is fitted (QEP, arXiv 2504.09629,
and GPTAQ, arXiv 2504.02692, from the same target). Two departures. Only layers that read the residual stream do so:
all layers of a block are measured at once, and what the first ones mend the later ones would mend again. And H is
damped ten times as much as for a fit, as D knows less about directions that are seldom read.
"""

from __future__ import annotations

from torch import Tensor

DAMP = 0.1


def propagated(weight: Tensor, drift: Tensor, upper: Tensor, share: float) -> Tensor:
    """The weight to be fitted in place of the original's.

    Args:
        weight: float32 (rows, cols).
        drift: D, float32 (cols, cols).
        upper: factor of the inverse of H with a damping of `DAMP` (`tailorbird.fit.hessian.sweep_factor`).
        share: of the correction, 0 to 1 (QEP's alpha).
    """
    return weight.addmm(weight @ drift @ upper.T, upper, alpha=share)
