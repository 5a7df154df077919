"""This machine and this installation: hardware, processes, files, versions; errors for users."""
