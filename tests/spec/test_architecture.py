"""Architectures as data: JSON, schema versions, hash, equivalence key, cost, errors."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from igcsearch.blocks import FAMILIES, dense, igcv1, igcv2, igcv3, network, stage, xception
from igcsearch.errors import UsageError
from igcsearch.spec import (
    Architecture,
    Block,
    Factor,
    Head,
    NormAct,
    Parallel,
    Pool,
    Problem,
    Shuffle,
    SqueezeExcitation,
    Stage,
    StagedArchitecture,
)
from igcsearch.spec.architecture import SCHEMA
from igcsearch.spec.serialise import canonical

SCHEMAS = Path(__file__).parent / "schemas"
PROBLEM = Problem(image_size=32, in_channels=3, num_classes=10)


def small(**options: object) -> Architecture:
    return network(
        PROBLEM,
        16,
        [
            stage(igcv2, 16, 16, 2, branch_widths=(4, 4), residual=True),
            stage(
                igcv2, 16, 32, 3, stride=2, branch_widths=(4, 8), transition={"branch_widths": (4, 4)}, residual=True
            ),
        ],
        **options,  # type: ignore[arg-type]
    )


def odd() -> Architecture:
    """Uses everything that the schema can say."""
    lanes = Parallel(
        ((), (Factor(8, 8, norm=True, activation="relu"),)), 16, split=(8, 8), shuffle=Shuffle("interleave")
    )
    block = Block(
        (
            Factor(16, 16, 3, groups=4, bias=True, dilation=2, shuffle=Shuffle("random", seed=5)),
            lanes,
            NormAct(16, norm=True, activation="gelu"),
            SqueezeExcitation(16, 4, "silu", "hardsigmoid"),
            Factor(16, 16, groups=2, norm=True, shuffle=Shuffle("explicit", order=tuple(reversed(range(16))))),
        ),
        shortcut=(Factor(16, 16, groups=16),),
        activation="silu",
        family="odd",
    )
    stem = Block((Factor(3, 16, 7, stride=2, norm=True, activation="relu"), Pool(16), Pool(16, "avg", 2, 1)))
    return StagedArchitecture(3, 32, 7, stem, (Stage((block, block)),), Head((Factor(16, 40),), dropout=0.25))


@pytest.mark.parametrize("architecture", [small(), small(head_width=64, dropout=0.1), odd()])
def test_json_round_trip_keeps_everything(architecture: Architecture) -> None:
    again = Architecture.from_json(architecture.to_json(indent=1))
    assert again == architecture
    assert (again.hash, again.key, again.cost) == (architecture.hash, architecture.key, architecture.cost)


@pytest.mark.parametrize("architecture", [small(), small(head_width=64), odd()])
def test_hash_is_of_the_canonical_data_less_the_schema(architecture: Architecture) -> None:
    import hashlib

    data = architecture.to_dict()
    assert data.pop("schema") == SCHEMA
    assert architecture.hash == hashlib.sha256(canonical(data).encode()).hexdigest()[:8]


def test_every_past_schema_version_loads_with_its_hash() -> None:
    files = sorted(SCHEMAS.glob("v*.json"))
    assert [file.stem for file in files] == [f"v{version}" for version in range(1, SCHEMA + 1)]
    for file in files:
        document = json.loads(file.read_text())
        architecture = Architecture.from_dict(document["architecture"])
        assert architecture.hash == document["hash"]  # fixed for good: entries' names carry it
        assert list(architecture.cost) == document["cost"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": SCHEMA + 1}, "newer than"),
        ({"schema": None}, "expected a version"),
        ({"kind": "tree"}, "'tree' is unknown"),
        ({"stages": 3}, "expected a JSON list"),
        (
            {"stem": {"steps": [{"in_channels": 3, "out_channels": 16, "kernelsize": 3}]}},
            r"unknown field 'kernelsize' \(did",
        ),
        ({"stem": {"steps": [{"in_channels": 3, "out_channels": "16"}]}}, "expected int, found '16'"),
        ({"stem": {"steps": [{"in_channels": 3}]}}, "out_channels"),
        ({"stem": {"steps": [{"op": "conv"}]}}, "unknown operation 'conv'"),
        ({"num_classes": 1}, "at least 2"),
        ({"in_channels": 1}, "stem reads 3 channels but is given 1"),
        ({"head": {"dropout": 1.5}}, "dropout 1.5"),
        ({"extra": 1}, "unknown field 'extra'"),
    ],
)
def test_bad_documents_are_refused_with_their_place(change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Architecture.from_dict({**small().to_dict(), **change})


def test_text_that_is_no_json() -> None:
    with pytest.raises(UsageError, match="not JSON"):
        Architecture.from_json("{")


def test_strides_that_leave_no_pixel() -> None:
    stem = Block((Factor(3, 8, 3), Pool(8, "max", 2, 2), Pool(8, "max", 2, 2), Pool(8, "max", 2, 2)))
    with pytest.raises(UsageError, match="leave no pixel of an image of 4"):
        StagedArchitecture(3, 4, 10, stem, ())


def test_equal_networks_share_a_key_and_differing_ones_do_not() -> None:
    def of(*blocks: Block) -> str:
        return StagedArchitecture(16, 8, 10, blocks[0], (Stage(blocks[1:]),) if blocks[1:] else ()).key

    def pair(shuffle: Shuffle, second: int = 4) -> Block:
        return Block((Factor(16, 16, groups=4, shuffle=shuffle), Factor(16, 16, groups=second)), family=shuffle.kind)

    strict = pair(Shuffle())
    # every complementary permutation of a strict two-factor product is interleave, relabelled
    other = Shuffle("explicit", order=(12, 0, 4, 8, 9, 5, 1, 13, 2, 6, 14, 10, 3, 15, 7, 11))
    assert of(pair(other)) == of(strict)
    assert of(pair(Shuffle("identity"))) != of(strict)
    # next to a dense factor a permutation has nothing to say
    assert of(pair(Shuffle("random", seed=1), 1)) == of(pair(Shuffle(), 1))
    # a random shuffle that is spelled out is the same one
    random_shuffle = Shuffle("random", seed=1)
    spelled = Shuffle("explicit", order=tuple(int(c) for c in random_shuffle.resolve(16, 4)))
    assert of(pair(random_shuffle)) == of(pair(spelled))
    # the family's name is no part of the network; the kernel, the order of factors and the activation are
    assert of(replace(strict, family="x")) == of(strict)
    assert of(Block((Factor(16, 16, groups=4), Factor(16, 16, groups=2)))) != of(
        Block((Factor(16, 16, groups=2), Factor(16, 16, groups=4)))
    )
    assert of(replace(strict, activation="relu")) != of(strict)
    assert of(strict, strict) != of(strict)
    # runs are counted by meaning: two spellings of one block in a row are two repeats
    assert of(strict, strict, pair(other)) == of(strict, strict, strict)


def test_other_heads_and_inputs() -> None:
    changed = small().with_(num_classes=3, in_channels=1, image_size=28)
    assert (changed.in_channels, changed.image_size, changed.num_classes) == (1, 28, 3)
    assert changed.stem.in_channels == 1
    assert changed.stages == small().stages


def test_definitions_are_memoised() -> None:
    assert igcv2(16, 16, branch_widths=(4, 4)) is igcv2(16, 16, branch_widths=(4, 4))
    assert {"igcv1", "igcv2", "igcv3", "xception", "dense"} <= set(FAMILIES)  # the others: tests/blocks


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: igcv2(16, 16, branch_widths=(3,)), "branch width 3 does not divide 16"),
        (lambda: igcv2(16, 24, branch_widths=(4,)), "branch widths that do: 2, 4, 8, 16"),
        (lambda: igcv2(16, 16, branch_widths=()), "at least one 1x1"),
        (lambda: igcv1(16, 16, primary_groups=3), "must divide both"),
        (lambda: igcv3(15, 16), "must divide"),
        (lambda: Factor(8, 8, groups=3), "3 groups do not divide 8 -> 8"),
        (lambda: Factor(8, 8, 2), "must be odd"),
        (lambda: Factor(8, 8, activation="rely"), "did you mean 'relu'"),
        (lambda: Shuffle("explicit", order=(0, 0)), "each of 0..1 once"),
        (lambda: Shuffle("interlave"), "did you mean 'interleave'"),
        (lambda: Block((Factor(8, 8),), shortcut=(Factor(8, 4),)), "cannot be added"),
        (lambda: Block((Factor(8, 8), Factor(4, 4))), "reads 4 channels but is given 8"),
        (lambda: Parallel(((), ()), 8, split=(3, 4)), "sum to 8"),
    ],
)
def test_parts_that_cannot_be_are_refused_at_construction(make: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()  # type: ignore[operator]


def test_cost_is_the_sum_over_every_layer_counted_by_hand() -> None:
    architecture = small()
    # stem 3*9*16 at 32x32; 2 strict blocks of 16 (9 + 4 + 4); one transition to 32 at 16x16 with a channel-wise
    # projection; 2 blocks of 32 (9 + 4 + 8); the linear layer
    macs = (27 * 16 + 2 * 16 * 17) * 32 * 32 + (32 * (9 + 4 + 4) + 32 + 2 * 32 * 21) * 16 * 16 + 320
    assert architecture.macs == macs
    norms = 2 * (16 + 2 * 16 + 32 + 32 + 2 * 32)
    assert architecture.params == 27 * 16 + 2 * 16 * 17 + 32 * 17 + 32 + 2 * 32 * 21 + norms + 32 * 10 + 10


def test_random_architectures_keep_distinct_hashes() -> None:
    stream = random.Random(0)
    texts, hashes = set(), set()
    for _ in range(300):
        width = stream.choice([16, 24, 32])
        family = stream.choice([xception, dense, igcv3])
        architecture = network(PROBLEM, width, [stage(family, width, width, stream.randint(1, 4))])
        texts.add(architecture.to_json())
        hashes.add(architecture.hash)
    assert len(texts) == len(hashes)
