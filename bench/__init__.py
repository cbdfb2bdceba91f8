"""Benchmarks: side by side in one run, quoted as ratios."""
