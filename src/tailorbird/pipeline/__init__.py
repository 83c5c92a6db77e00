"""The way through the house: open, plan, then for every piece measure, decide, fit and pack; verify, evaluate,
report."""

from tailorbird.pipeline.compress import compress
from tailorbird.pipeline.prepare import Prepared, prepare

__all__ = ["Prepared", "compress", "prepare"]
