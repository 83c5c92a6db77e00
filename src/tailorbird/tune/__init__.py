"""The learning core: rounding, ranges and weights of a block refined by gradient steps on its outputs.

Parametrisations (`quantizers`), hard rounding with a stated surrogate gradient (`rounding`), optimisers and the loop
over a block's calibration batches (`learn`), and what the learned methods have in common (`learning`). And what a
finished model learns as a whole (`distill`).
"""
