"""One network trained once: its messages, its epochs, its checkpoints."""
