"""`python -m scripts.bench`."""

from scripts.bench.cli import app

if __name__ == "__main__":  # the processes of the arms import this module again
    app(prog_name="bench")
