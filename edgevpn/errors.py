"""The errors a person or a script meets.

Every error that ends a command is an `EdgevpnError`: its text is the one line the user reads (what happened, and what
to do), and `exit_code` is what a script sees. `UntrustedDataError` is the only thing a decoder of remote bytes (every
function named `*_untrusted`) may raise: it never travels past the code that called the decoder.
"""


class EdgevpnError(Exception):
    """Something failed for a reason the user can read; the text is one line and says what to do."""

    exit_code = 1


class UsageError(EdgevpnError):
    """A flag, an argument or a configuration value is wrong."""

    exit_code = 2


class NodeUnreachableError(EdgevpnError):
    """No running node answers in the run directory that was asked."""

    exit_code = 3


class SetupError(EdgevpnError):
    """The machine does not let the node start: rights, devices, ports, directories."""

    exit_code = 4


class NodeUselessError(EdgevpnError):
    """The actors that a running node is for died too often: it ended, and its service manager may start it again."""

    exit_code = 6


class UntrustedDataError(EdgevpnError):
    """Bytes from a peer, a file or the network do not have the form they must have."""

    exit_code = 5
