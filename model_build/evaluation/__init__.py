"""How good a model is, on photos whose classes are known."""
