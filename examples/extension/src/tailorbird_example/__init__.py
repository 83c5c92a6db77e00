"""A method and a model family that tailorbird finds when this package is installed."""
