"""`python -m igcsearch`: the command line."""

from igcsearch.cli import main

if __name__ == "__main__":
    main()
