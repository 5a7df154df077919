"""The errors a user meets: one line each, with the exit code of the command."""


class HpsearchError(Exception):
    """A run or a check failed; the command ends with exit code 1."""

    exit_code = 1


class InputError(HpsearchError):
    """What the user gave is wrong: what must hold, what came, where, the mend. Exit code 2."""

    exit_code = 2
