"""The ``spine`` command: one file a command, thin; what they do is in the library."""

import sys


def main() -> None:
    """Run the command line; a Ctrl-C while it still loads ends it as quietly as a later one."""
    try:
        from spine.cli.app import app

        app()
    except KeyboardInterrupt:
        sys.exit(130)
