"""Photos to learn from, to calibrate on and to measure with, and what their classes are called."""
