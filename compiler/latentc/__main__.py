"""`python -m latentc`, and the console script."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C while modules are imported ends it as quietly as later."""
    try:
        from latentc.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
