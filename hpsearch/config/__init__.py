"""What may be asked for: targets, one run, a search space, an exported configuration."""
