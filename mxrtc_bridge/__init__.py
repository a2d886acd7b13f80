"""A Matrix application service whose virtual users are WebRTC data-channel endpoints.

What may be imported is what ``__all__`` of this module names, and only that is kept from version to version:

    __version__     the version, as text

Everything else (each module below, whatever its name begins with) is the inside of two programs and may change with any
version. Other programs use what is documented and kept: the commands ``mxrtc`` and ``mxrtc-bridge`` with ``--json``
and their exit codes (docs/reference/json-output.md, docs/reference/exit-codes.md), the metrics, and the wire protocols
(docs/reference/protocol.md). All of it has types, and ``py.typed`` says so to type checkers.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
