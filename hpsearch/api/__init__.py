"""The Python interface: what `import hpsearch` offers and what it shares with the commands."""
