"""Optuna's dashboard on a store, and our pages beside it, over HTTP."""
