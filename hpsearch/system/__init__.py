"""This machine and this installation: hardware, processes, files, versions, and errors for users."""
