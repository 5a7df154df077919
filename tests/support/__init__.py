"""What several test modules share: commands, stores, browsers, made-up records."""
