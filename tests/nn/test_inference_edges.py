"""What people do with a network that was made ready for inference, beyond calling it: other defaults, dtypes, threads, state."""

import copy
import json
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from igcsearch.blocks import get_family, network, stage
from igcsearch.errors import UsageError
from igcsearch.nn import build, plans
from igcsearch.nn.fused import fused_available, product, shared, wiring
from igcsearch.nn.inference import PLANS, FusedRun, InferenceNetwork, block_layers
from igcsearch.nn.plans import PlanTimes, optimize_for_inference
from igcsearch.spec import Factor, Problem
from igcsearch.training.norms import GlobalBatchNorm

pytestmark = pytest.mark.skipif(not fused_available("cpu", torch.float32), reason="no compiler for the fused kernels")
IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def lively(activation="relu"):
    """A small network whose norms have statistics, with shortcuts."""
    blocks = stage(get_family("igcv2"), 24, 24, 2, residual=True, activation=activation, branch_widths=(4, 6))
    net = build(network(Problem(16, 3, 10), 24, (blocks,)), 0)
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
    return net.eval()


def ready(net, plan="fused", channels_last=False):
    return InferenceNetwork(net, [plan] * len(block_layers(net)), channels_last)


@pytest.fixture(scope="module")
def net():
    return lively()


@pytest.fixture(scope="module")
def expected(net):
    with torch.no_grad():
        return net(IMAGES)


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_default_dtype_is_not_the_kernels(net, expected, dtype):
    fast = ready(net)
    torch.set_default_dtype(dtype)
    try:
        found = [fast(IMAGES), ready(net)(IMAGES), ready(net, "collapsed")(IMAGES)]
        made = optimize_for_inference(net, measure=False)
    finally:
        torch.set_default_dtype(torch.float32)
    for each in (*found, made(IMAGES)):
        same(each, expected)


def test_the_default_device_is_not_the_kernels(net, expected):
    fast = ready(net)
    with torch.device("meta"):
        same(fast(IMAGES), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_network_moved_to_another_dtype_afterwards(net, expected, dtype):
    moved = ready(net).to(dtype)
    tolerance = {torch.bfloat16: 0.1, torch.float64: 1e-4}[dtype]
    run = next(module for module in moved.modules() if isinstance(module, FusedRun))
    other = next(module for module in ready(net).modules() if isinstance(module, FusedRun))
    x = torch.randn(2, run.factors[0].in_channels, 8, 8)  # in float32, before weights that are not
    torch.testing.assert_close(run(x), other(x), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(moved(IMAGES.to(dtype)).float(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_network_of_another_dtype_is_made_ready_in_float32(net, expected, dtype):
    made = optimize_for_inference(copy.deepcopy(net).to(dtype), measure=False)
    tolerance = {torch.bfloat16: 0.1, torch.float64: 1e-4}[dtype]
    torch.testing.assert_close(made(IMAGES), expected, rtol=tolerance, atol=tolerance)
    with pytest.raises(UsageError, match="give float32 images"):
        optimize_for_inference(net, IMAGES.to(dtype))


FACTORS = (Factor(12, 12, kernel_size=3, groups=4), Factor(12, 24, groups=3))


def a_product(x, index=None, weights=None, stride=1, bias=None):
    made = [torch.randn(f.out_channels, f.branch_width, f.kernel_size, f.kernel_size) for f in FACTORS]
    index = wiring(FACTORS) if index is None else index
    return product(x, made if weights is None else weights(made), index, [4, 3], bias, stride)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_an_empty_map_is_refused_as_convolutions_refuse_it(stride, size):
    with pytest.raises(RuntimeError, match="at least one pixel"):
        a_product(torch.randn(2, 12, *size), stride=stride)
    with pytest.raises(RuntimeError):
        nn.Conv2d(12, 12, 1, stride)(torch.randn(2, 12, *size))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"index": wiring(FACTORS).long()}, "int32"),
        ({"index": wiring(FACTORS)[:5]}, "expected an index of 48"),
        ({"weights": lambda made: [made[0], torch.randn(24, 5, 1, 1)]}, "does not read 12 channels by a 1x1"),
        ({"weights": lambda made: [made[0], torch.randn(24, 4, 3, 3)]}, "does not read 12 channels by a 1x1"),
        ({"weights": lambda made: [torch.randn(13, 3, 3, 3), made[1]]}, "does not read 12 channels"),
        ({"bias": torch.zeros(5)}, "does not fit 24 channels"),
    ],
)
def test_what_would_be_read_beyond_is_refused(wrong, said):
    with pytest.raises(RuntimeError, match=said):
        a_product(torch.randn(2, 12, 4, 4), **wrong)


def test_tensors_without_memory(net):
    fake = FakeTensorMode(allow_non_fake_inputs=True).from_tensor(IMAGES)
    assert ready(net)(fake).shape == (2, 10)  # outside of its mode: an answer or an error, no crash


@pytest.mark.parametrize("kind", [nn.SyncBatchNorm, GlobalBatchNorm])
def test_norms_of_several_processes_are_folded(net, expected, kind):
    swapped = copy.deepcopy(net)
    for module in list(swapped.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                other = kind(child.num_features).eval()
                other.load_state_dict(child.state_dict())
                setattr(module, name, other)
    assert any(isinstance(module, kind) for module in swapped.modules())
    same(ready(swapped)(IMAGES), expected)


def test_what_cannot_be_folded_is_refused(net):
    other = copy.deepcopy(net)
    layer = next(module for module in other.modules() if isinstance(getattr(module, "norm", None), nn.BatchNorm2d))
    layer.norm = nn.GroupNorm(2, layer.norm.num_features)
    with pytest.raises(UsageError, match="GroupNorm cannot be folded"):
        ready(other)
    layer.norm = nn.BatchNorm2d(layer.factor.out_channels, track_running_stats=False)
    with pytest.raises(UsageError, match="without running statistics"):
        ready(other)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_there_are_no_half_gradients(plan, activation):
    images = IMAGES.clone().requires_grad_()
    assert not ready(lively(activation), plan)(images).requires_grad


def test_exchanged_weights_are_used(net):
    fast = ready(net)
    nothing = {name: torch.zeros_like(value) for name, value in fast.state_dict().items()}
    nothing |= {name: value for name, value in fast.state_dict().items() if name.endswith("index")}
    before = fast(IMAGES)
    assert before.abs().max() > 0
    assert torch.func.functional_call(fast, nothing, (IMAGES,)).abs().max() == 0
    torch.testing.assert_close(fast(IMAGES), before)
    fast.load_state_dict(nothing, assign=True)
    assert fast.blocks[1](fast.blocks[0](IMAGES)).abs().max() == 0


@pytest.mark.parametrize("channels_last", [False, True])
def test_images_are_brought_into_the_format_that_was_measured(net, expected, channels_last):
    fast, seen = ready(net, channels_last=channels_last), []
    fast.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    wanted = torch.channels_last if channels_last else torch.contiguous_format
    for layout in (torch.contiguous_format, torch.channels_last):
        same(fast(IMAGES.contiguous(memory_format=layout)), expected)
        assert seen.pop().is_contiguous(memory_format=wanted)


@pytest.mark.parametrize("plan", PLANS)
def test_autocast_does_not_reach_in(net, expected, plan):
    fast = ready(net, plan)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = fast(IMAGES)
    assert found.dtype is torch.float32
    same(found, expected)


def test_results_survive_the_next_call_and_other_threads(net):
    fast, images = ready(net), [torch.randn(n, 3, s, s) for n, s in ((1, 16), (4, 9), (2, 16), (3, 20))]
    alone = [ready(net)(each) for each in images]
    kept = [fast(each) for each in images]
    for found, wanted in zip(kept, alone, strict=True):
        assert torch.equal(found, wanted)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for found, wanted in zip(pool.map(fast, images), alone, strict=True):
                same(found, wanted)


def test_compiled_whole(net, expected):
    torch._dynamo.reset()
    compiled = torch.compile(ready(net), fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        same(compiled(IMAGES), expected)


def test_a_dtype_that_no_kernel_serves_is_said_once(caplog):
    shared.note_stock.cache_clear()
    with caplog.at_level(logging.DEBUG, "igcsearch"):
        for _ in range(2):
            a_product_of_dtype(torch.float16)
    assert [record.message for record in caplog.records].count(
        "no fused kernel serves torch.float16 on cpu: products run by stock operators there"
    ) == 1


def a_product_of_dtype(dtype):
    factors = FACTORS[1:]
    return product(torch.randn(1, 12, 3, 3).to(dtype), [torch.randn(24, 4, 1, 1).to(dtype)], wiring(factors), [3])


@pytest.mark.parametrize("need_x", [False, True])
def test_the_backward_pass_is_counted_as_it_runs(need_x):
    factors = (Factor(24, 24, groups=4), Factor(24, 24, groups=6), Factor(24, 24, groups=3))
    weights = [torch.randn(f.out_channels, f.branch_width, 1, 1, requires_grad=True) for f in factors]
    x = torch.randn(2, 24, 4, 4, requires_grad=need_x)
    y = product(x, weights, wiring(factors), [f.groups for f in factors])
    counted = FlopCounterMode(display=False)
    with counted:
        y.sum().backward()
    macs = [weight.numel() * 2 * 16 for weight in weights]
    wanted = sum(macs) + sum(macs[1:]) + (macs[0] if need_x else 0)  # of the weights, then of what each reads
    assert counted.get_total_flops() == 2 * wanted


# ---------------------------------------------------------------- the cache of plans


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr(plans, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(plans.Elsewhere, "cores", lambda _: 0.0)
    return tmp_path


def test_times_without_kernels_are_not_those_with_them(cache, monkeypatch):
    with_kernels = PlanTimes(torch.device("cpu")).label
    monkeypatch.setattr(plans, "kernels", lambda: None)
    assert PlanTimes(torch.device("cpu")).label != with_kernels


def test_what_two_processes_measure_is_kept(cache):
    one, two = PlanTimes(torch.device("cpu")), PlanTimes(torch.device("cpu"))
    one.held("a", lambda: {"stock": 1.0})
    two.held("b", lambda: {"fused": 2.0})
    one.save()
    two.save()
    assert PlanTimes(torch.device("cpu")).times == {"a": {"stock": 1.0}, "b": {"fused": 2.0}}


def test_entries_of_another_kind_are_measured_anew(cache):
    known = PlanTimes(torch.device("cpu"))
    known.held("a", lambda: {"stock": 1.0})
    known.save()
    (path,) = cache.iterdir()
    held = json.loads(path.read_text())
    held["blocks"] |= {"b": {}, "c": {"unheard-of": 1.0}, "d": {"stock": 1.0, "unheard-of": 2.0}}
    path.write_text(json.dumps(held))
    assert PlanTimes(torch.device("cpu")).times == {"a": {"stock": 1.0}}


def test_times_at_hand_are_used_and_joined(cache, net):
    known = PlanTimes(torch.device("cpu"))
    optimize_for_inference(net, IMAGES, known=known)
    assert known.times
    before = dict(known.times)
    optimize_for_inference(net, IMAGES, known=known)
    assert known.times == before
