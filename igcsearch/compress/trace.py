"""A foreign module as a graph architecture with its weights, by torch.fx. Floor 6.

The module is traced in eval mode for one image size; every call becomes an operation of the closed list (spec/operations.py), what
has no such operation is an error that names it and the module it stands in. The result keeps the module's parameter names.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from ..errors import UsageError
from ..nn.graph import GraphNetwork
from ..nn.sparse import SparseConv2d
from ..spec.graph import INPUT, GraphArchitecture, Node
from ..spec.operations import OPERATIONS, Operation
from .calls import CALLS, CALLS_BY_NAME, MODULES, Call, UnknownCallError, call_key
from .moves import moved, only_moves

#: Largest difference of outputs that is rounding, as a share of the largest output.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


class Traced(NamedTuple):
    """A foreign network as a graph.

    Args:
        architecture: of the kind `graph`.
        state_dict: its parameters and buffers.
        difference: largest between the module's and the graph's outputs on random images, as a share of the largest output.
    """

    architecture: GraphArchitecture
    state_dict: dict[str, Tensor]
    difference: float


def trace(module: nn.Module, image_size: int, in_channels: int = 3, *, family: str = "graph") -> Traced:
    """The graph of a module that maps (N, in_channels, image_size, image_size) to (N, classes). The module stays as it is.

    Raises:
        UsageError: it cannot be traced, it does something that graphs have no operation for, weights that are not finite, or an
            output that is not one tensor of logits.
    """
    module = _copied(module).eval()
    check_finite(module.state_dict())
    kind = next((p.dtype for p in module.parameters()), torch.float32)
    images = torch.randn(2, in_channels, image_size, image_size, generator=torch.Generator().manual_seed(0)).to(kind)
    traced = _symbolic(module)
    values, changed = _values(traced, images)
    output = next(node for node in traced.graph.nodes if node.op == "output").args[0]
    logits = values.get(output) if isinstance(output, fx.Node) else None
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise UsageError(
            "the network's output is not one tensor of logits, (images, classes); wrap it in a module that gives them"
        )
    nodes, sources = _Builder(traced, values, changed).nodes(output)
    architecture = GraphArchitecture(in_channels, image_size, logits.shape[1], tuple(nodes), family)
    network = GraphNetwork(architecture).to(kind).eval()
    with torch.no_grad():
        for name, path in sources.items():
            layer, source = network.layer(name), traced.get_submodule(path)
            layer.load_state_dict(source.state_dict())
        expected, found = (
            module(images.clone()),
            network(images),
        )  # the module itself: torch.fx may miss something
    difference = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
    if not difference <= TOLERANCE.get(kind, 1e-2):
        raise UsageError(
            f"the graph made of the network differs from it by {difference:.2g} of its largest output: it does something that "
            "tracing does not see, such as chance, a branch on the images' values, or += on a tensor with a second name"
        )
    return Traced(architecture, network.state_dict(), difference)


def _copied(module: nn.Module) -> nn.Module:
    """A copy on the CPU."""
    if lazy := [name for name, parameter in module.named_parameters() if is_lazy(parameter)]:
        raise UsageError(
            f"{lazy[0]} of the network has no shape yet (a lazy module); run it on one batch of images first"
        )
    try:
        return copy.deepcopy(module).cpu()
    except Exception as error:  # weights on the meta device, attributes that know no copy
        raise UsageError(
            f"the network cannot be copied to the CPU: {_first_line(error)}; give it weights, and keep nothing in it that was "
            "computed from them"
        ) from error


def check_finite(state: Mapping[str, Tensor]) -> None:
    """Raise a UsageError that names the tensor if one of a state dict holds NaN or an infinity."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UsageError(
                f"{name} of the network holds values that are not finite; give weights without NaN and infinities"
            )


class _Tracer(fx.Tracer):
    """The tracer, which remembers the module whose forward is running."""

    inside = ""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """As the base class; our sparse convolutions are operations of their own, too."""
        return isinstance(m, SparseConv2d) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """As the base class; on an error `inside` stays at the innermost module."""
        before, self.inside = self.inside, self.path_of_module(m)
        made = super().call_module(m, forward, args, kwargs)
        self.inside = before
        return made


def _symbolic(module: nn.Module) -> fx.GraphModule:
    tracer = _Tracer()
    try:
        return fx.GraphModule(module, tracer.trace(module))
    except Exception as error:  # whatever the module's own code raises when it is given proxies
        inside = tracer.inside
        where = (
            f"module {inside!r} ({type(module.get_submodule(inside)).__name__})" if inside else type(module).__name__
        )
        raise UsageError(
            f"torch.fx cannot trace {where}: {_first_line(error)}; its forward may not branch on the images' values or shapes"
        ) from error


def _values(
    traced: fx.GraphModule, images: Tensor
) -> tuple[dict[fx.Node, Any], dict[fx.Node, list[tuple[fx.Node, bool]]]]:
    """What every node gives for the images; and for each that works in place the nodes before it whose tensors it changes.

    With each of those whether its tensor is, after that, all of what the call gives, or only shares memory with it.
    """
    values: dict[fx.Node, Any] = {}
    changed: dict[fx.Node, list[tuple[fx.Node, bool]]] = {}

    class Keeper(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            before = [(each, t, t._version) for each, t in self.env.items() if isinstance(t, Tensor)]
            made = super().run_node(n)
            values[n] = made.clone() if isinstance(made, Tensor) else made  # later calls may work in place
            changed[n] = [(each, _same(t, made)) for each, t, version in before if t._version != version]
            return made

    try:
        with torch.no_grad():
            Keeper(traced, garbage_collect_values=False).run(images.clone())
    except Exception as error:
        size = "x".join(map(str, images.shape[1:]))
        raise UsageError(
            f"the network does not run on images of {size}: {_first_line(error)}; give images that it takes (--data, --image-size)"
        ) from error
    return values, changed


def _same(tensor: Tensor, other: Any) -> bool:
    """True if both are the same numbers in memory, in the same shape."""
    return (
        isinstance(other, Tensor)
        and tensor.data_ptr() == other.data_ptr()
        and (tensor.shape, tensor.stride()) == (other.shape, other.stride())
    )


class _Builder:
    """Nodes of a graph from those of torch.fx, one after another."""

    def __init__(
        self,
        traced: fx.GraphModule,
        values: dict[fx.Node, Any],
        changed: dict[fx.Node, list[tuple[fx.Node, bool]]],
    ) -> None:
        self.traced, self.values, self.changed = traced, values, changed
        self.made: dict[str, Node] = {}
        self.names: dict[fx.Node, str] = {}  # of what is a node of the graph
        self.chains: dict[fx.Node, list[fx.Node]] = {}  # of what was only moved since then
        self.first: dict[frozenset[int], str] = {}  # the node of each module that was called, by its tensors
        self.owner: dict[int, str] = {}  # the node of each parameter
        self.paths = {node.target for node in traced.graph.nodes if node.op == "call_module"}

    def nodes(self, output: fx.Node) -> tuple[list[Node], dict[str, str]]:
        """The nodes that the output needs, and the module that each with parameters or buffers comes from."""
        sources: dict[str, str] = {}
        for node in self.traced.graph.nodes:
            if node.op == "placeholder":
                if self.names:
                    raise UsageError("the network takes several inputs; one batch of images is needed")
                self.names[node] = INPUT
            elif node.op in ("call_module", "call_function", "call_method"):
                try:
                    self._take(node, sources)
                    self._follow(node)
                except UsageError as error:
                    raise UsageError(f"{self._place(node)}: {error}") from None
                except UnknownCallError as error:
                    raise UsageError(
                        f"{self._place(node)}: {error} is none of the operations that graphs know: {', '.join(OPERATIONS)}"
                    ) from None
        if output not in self.names:
            raise UsageError("the network's output does not come from the images by operations that graphs know")
        kept = _needed(self.made, self.names[output])
        return kept, {node.name: sources[node.name] for node in kept if node.name in sources}

    def _take(self, node: fx.Node, sources: dict[str, str]) -> None:
        module = self.traced.get_submodule(str(node.target)) if node.op == "call_module" else None
        if only_moves(node, module):
            self._move(node)
            return
        call, made = Call(node, self.values), self.values[node]
        if not isinstance(made, Tensor) or not call.tensors:
            if call.tensors and isinstance(made, list | tuple) and any(isinstance(each, Tensor) for each in made):
                raise UnknownCallError(_call_name(node) if module is None else type(module).__name__)
            return  # sizes and numbers; what uses them looks at their values
        reads = tuple(map(self._name, call.tensors))
        if module is None:
            base = node.name
            while base in self.paths:
                base += "_"
            for operation in _called(node)(call):
                reads = (self._add(base, operation, reads),)
        else:
            handler = MODULES.get(type(module))
            if handler is None:
                raise UnknownCallError(type(module).__name__)
            path = str(node.target)
            *extra, operation = handler(module, call)
            for each in extra:
                reads = (self._add(f"{path}_before", each, reads),)
            shares = self._shared(module, operation)
            name = f"{path}_again" if path in self.made else path
            reads = (self._add(name, operation, reads, shares),)
            if module.state_dict() and shares is None:
                sources[reads[0]] = path
                self.first[_tensors(module)] = reads[0]
                self.owner |= {id(each): reads[0] for each in module.parameters()}
        self.names[node] = reads[0]

    def _shared(self, module: nn.Module, operation: Operation) -> str | None:
        """The node that has this module's tensors: of its first call, or of another module that holds the same ones."""
        before = self.first.get(_tensors(module))
        for name, parameter in module.named_parameters():
            if (owner := self.owner.get(id(parameter))) is not None and before is None:
                raise UsageError(
                    f"it shares its {name} with {owner!r}, but not all; share every tensor of the two or none"
                )
        if before is not None and self.made[before].operation != operation:
            raise UsageError(f"it shares its tensors with {before!r}, but works in another way; give it its own")
        return before

    def _follow(self, node: fx.Node) -> None:
        """After a call that worked in place: what was changed is known as what the call gives, or not at all."""
        for other, same in self.changed[node]:
            if other not in self.names:
                continue
            if same and node in self.names:
                self.names[other] = self.names[node]
            elif other is not node:
                del self.names[other]

    def _move(self, node: fx.Node) -> None:
        tensors = [source for source in node.all_input_nodes if source in self.names or source in self.chains]
        if not tensors:
            return
        chain = [*self.chains.get(tensors[0], tensors[:1]), node]
        operations = moved(self.traced, chain, self.values)
        if operations is None:
            self.chains[node] = chain
            return
        reads = (self._name(chain[0]),)
        for operation in operations:
            reads = (self._add(node.name, operation, reads),)
        self.names[node] = reads[0]

    def _name(self, source: fx.Node) -> str:
        if source not in self.names:
            later = (
                " after work in place on a part of it"
                if any(source is o for c in self.changed.values() for o, _ in c)
                else ""
            )
            raise UnknownCallError(
                f"what {source.name!r} gives{later} ({'x'.join(map(str, self.values[source].shape))})"
            )
        return self.names[source]

    def _add(self, base: str, operation: Operation, reads: tuple[str, ...], shares: str | None = None) -> str:
        name = base
        while name in self.made or name == INPUT:
            name += "_"
        self.made[name] = Node(name, operation, reads, shares)
        return name

    def _place(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return f"module {node.target!r}"
        stack = node.meta.get("nn_module_stack") or {}
        path = list(stack)[-1] if stack else ""
        return f"{_call_name(node)} in " + (f"module {path!r}" if path else "the network's forward")


def _tensors(module: nn.Module) -> frozenset[int]:
    """What tells modules apart that hold other tensors."""
    return frozenset(map(id, (*module.parameters(), *module.buffers())))


def _called(node: fx.Node) -> Any:
    """The handler of a function or method."""
    handler = CALLS.get(call_key(node)) or CALLS_BY_NAME.get(_call_name(node))
    if handler is None:
        raise UnknownCallError(_call_name(node))
    return handler


def _call_name(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", str(node.target))


def _needed(made: dict[str, Node], end: str) -> list[Node]:
    """The nodes that `end` depends on, in order."""
    wanted = {end}
    for node in reversed(made.values()):
        if node.name in wanted:
            wanted |= {*node.reads, *(() if node.shares is None else (node.shares,))}
    return [node for node in made.values() if node.name in wanted]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[0]
