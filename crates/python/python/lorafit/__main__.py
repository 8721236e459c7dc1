"""The program ``lorafit``, which a wheel has as a script: its code is the extension module's."""

from __future__ import annotations

import signal
import sys


def main() -> int:
    """Runs the command line; gives its exit code."""
    # Signals are the program's, as they are without Python.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from lorafit import _lorafit

    return _lorafit.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
