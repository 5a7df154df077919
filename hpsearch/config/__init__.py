"""The configuration: targets, one run, a search space, an exported winner."""
