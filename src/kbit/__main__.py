"""``python -m kbit``: the command line."""

from kbit.cli.main import main

if __name__ == "__main__":
    main()
