"""This machine and this installation: processes, GPUs, files, passwords and versions."""
