"""What a compression or a training did, as a page that opens offline; pictures for benchmarks. Reads results only."""

from tailorbird.report.page import render, write_report
from tailorbird.report.plots import scatter
from tailorbird.report.training import render_training, write_training

__all__ = ["render", "render_training", "scatter", "write_report", "write_training"]
