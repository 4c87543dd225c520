"""The one error class for everything a user can get wrong or must fix."""


class RmtEdgeError(Exception):
    """What happened, what was expected and what to do, in one message a person can act on.

    The command line prints the message and exits 2 without a traceback. Any other exception that leaves
    rmt-edge is a bug and keeps its traceback.
    """

    def __init__(self, what: str, note: str = "", do: str = ""):
        parts = [what]
        if note:
            parts.append(f"Note: {note}")
        if do:
            parts.append(do)
        super().__init__("\n".join(parts))


class CheckFailedError(RmtEdgeError):
    """What was to be held does not hold: a limit of accuracy, latency or size. The command line exits 1.

    So a script tells a model that is worse from a mistake in its own call.
    """
