"""Floor 3: architectures as torch modules, their initialisation and their measured cost. Imports only the specification."""

from .network import Network, build, initialise

__all__ = ["Network", "build", "initialise"]
