"""Floor 1: block definitions, one family a file: Python functions that return a `Block` for a width, each citing its paper.

Every definition takes (in_channels, out_channels, *, stride, residual, activation, shuffle) and the family's own options, and is
memoised: equal arguments give the identical object, with its cost and conditions already known.
"""

from collections.abc import Callable

from igcsearch.errors import UsageError, near
from igcsearch.spec import Block

from .assemble import network, stage, stem
from .butterfly import butterfly
from .dense import dense
from .igcv1 import igcv1
from .igcv2 import igcv2, igcv2_grouped, igcv2_uniform
from .igcv3 import igcv3
from .mobilenet import mobilenet
from .mobilenetv2 import mobilenetv2
from .monarch import monarch
from .resnet import resnet_basic, resnet_bottleneck
from .resnext import resnext
from .shufflenet import shufflenet
from .shufflenetv2 import shufflenetv2
from .xception import xception

FAMILIES: dict[str, Callable[..., Block]] = {
    "igcv1": igcv1,
    "igcv2": igcv2,
    "igcv3": igcv3,
    "xception": xception,
    "mobilenet": mobilenet,
    "mobilenetv2": mobilenetv2,
    "shufflenet": shufflenet,
    "shufflenetv2": shufflenetv2,
    "resnet_basic": resnet_basic,
    "resnet_bottleneck": resnet_bottleneck,
    "resnext": resnext,
    "monarch": monarch,
    "butterfly": butterfly,
    "dense": dense,
}


def get_family(name: str) -> Callable[..., Block]:
    """The block definition of that name.

    Raises:
        UsageError: there is none, with near matches.
    """
    if name not in FAMILIES:
        raise UsageError(f"unknown block family {name!r}{near(name, FAMILIES)}; families: {', '.join(FAMILIES)}")
    return FAMILIES[name]


__all__ = [
    "FAMILIES",
    "butterfly",
    "dense",
    "get_family",
    "igcv1",
    "igcv2",
    "igcv2_grouped",
    "igcv2_uniform",
    "igcv3",
    "mobilenet",
    "mobilenetv2",
    "monarch",
    "network",
    "resnet_basic",
    "resnet_bottleneck",
    "resnext",
    "shufflenet",
    "shufflenetv2",
    "stage",
    "stem",
    "xception",
]
