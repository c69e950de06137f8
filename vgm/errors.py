"""The one error that a person caused and a person can fix."""


class UserError(ValueError):
    """Bad input: one line that names the field or file and the remedy.

    Scripts print the line and exit with status 2; anything else is a bug and keeps its
    traceback.
    """
