"""A trained model that leaves: its folder, predictions with intervals, and exports."""
