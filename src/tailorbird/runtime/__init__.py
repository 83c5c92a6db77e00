"""Running a compressed model: modules whose weights stay packed, and text generation."""
