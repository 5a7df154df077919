"""What a run costs: timed, predicted by a model, and the time that is left."""
