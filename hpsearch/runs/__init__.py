"""A run, that is one network trained once: its messages, epochs and checkpoints."""
