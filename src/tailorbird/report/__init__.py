"""What a compression did, as one page that opens offline, and pictures for benchmarks. Reads results only."""

from tailorbird.report.page import render, write_report
from tailorbird.report.plots import scatter

__all__ = ["render", "scatter", "write_report"]
