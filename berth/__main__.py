"""`python -m berth` is the `berth` command."""

from berth.cli import main

if __name__ == "__main__":
    main()
