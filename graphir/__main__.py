"""`python -m graphir`: the command line."""

from graphir.cli import main

if __name__ == "__main__":
    main()
