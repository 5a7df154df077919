"""Hyperparameter search for equivariant molecular networks (arXiv 2008.08461)."""

__version__ = "0.1.0"
