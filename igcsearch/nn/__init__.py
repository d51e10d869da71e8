"""Floor 3: architectures as torch modules, their initialisation and their measured cost. Imports only the specification."""

from .base import Network
from .network import StagedNetwork, build, initialise, module_of

__all__ = ["Network", "StagedNetwork", "build", "initialise", "module_of"]
