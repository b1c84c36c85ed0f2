"""The one error class for what a user can cause; the command line prints it and exits with 2."""


class MlxflowError(Exception):
    """A sentence that says what is wrong and what to do about it."""
