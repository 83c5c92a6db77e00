"""Running calibration data through a model one block at a time, and what is kept of it."""
