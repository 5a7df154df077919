"""The cost of a run: measured from a few steps, predicted by a model, and the time left."""
