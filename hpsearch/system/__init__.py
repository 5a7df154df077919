"""This machine and this installation: hardware, processes, files, passwords and versions."""
