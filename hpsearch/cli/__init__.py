"""The commands that a person types."""

from hpsearch.cli.program import cli, main

__all__ = ["cli", "main"]
