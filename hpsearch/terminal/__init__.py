"""Every line and table that a command prints on a terminal."""
