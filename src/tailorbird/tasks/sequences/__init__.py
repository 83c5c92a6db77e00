"""Sequences of events by user: data sets, splits, ranking, and figures that are hard to fool."""
