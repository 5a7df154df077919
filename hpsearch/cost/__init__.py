"""What a run costs: measured from a few steps, predicted by a model, and the time left."""
