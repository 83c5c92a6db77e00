"""Equivalent transforms: other weights for the same model, easier to round."""
