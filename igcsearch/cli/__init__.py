"""Floor 8, the command line: thin commands that parse, call the floors below and print. `main` is the program `igcsearch`."""

from .app import app, main

__all__ = ["app", "main"]
