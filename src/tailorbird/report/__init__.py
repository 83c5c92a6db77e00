"""What a compression, a training or a simulation did, as a page that opens offline; pictures for benchmarks. Reads
results only."""

from tailorbird.report.page import render, write_report
from tailorbird.report.plots import scatter
from tailorbird.report.simulation import render_simulation, write_simulation
from tailorbird.report.tailoring import render_tailoring, write_tailoring
from tailorbird.report.training import render_training, write_training

__all__ = [
    "render",
    "render_simulation",
    "render_tailoring",
    "render_training",
    "scatter",
    "write_report",
    "write_simulation",
    "write_tailoring",
    "write_training",
]
