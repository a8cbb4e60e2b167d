"""``python -m spine`` is the ``spine`` command."""

from spine.cli import main

if __name__ == "__main__":
    main()
