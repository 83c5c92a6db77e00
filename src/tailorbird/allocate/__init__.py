"""From a budget to a format for every part."""
