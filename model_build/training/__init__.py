"""New classes: fine-tuning, linear heads, calibrated scores."""
