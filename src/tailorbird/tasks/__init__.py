"""Calibration text, and evaluation: perplexity, divergence from the original, multiple choice."""
