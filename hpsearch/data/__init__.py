"""Molecules, splits and the normalisation of targets."""
