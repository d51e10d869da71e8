"""Learned shuffles as data: where there is something to learn, and hardening."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from igcsearch.blocks import FAMILIES, igcv2, igcv3, network, stage, xception
from igcsearch.errors import UsageError
from igcsearch.spec import (
    Architecture,
    Block,
    Budget,
    Factor,
    Parallel,
    Problem,
    Shuffle,
    Stage,
    StagedArchitecture,
)
from igcsearch.spec.conditions import level, path_counts
from igcsearch.spec.learning import LearningRule, gaps, hardened, is_learned, opened, reduced
from igcsearch.spec.parts import parts

PROBLEM = Problem(8, 1, 10, Budget())
LEARNED = Shuffle("learned")


def made(*blocks: Block) -> Architecture:
    return network(PROBLEM, blocks[0].in_channels, [Stage(tuple(blocks))])


def test_json_keeps_what_is_learned_and_cost_does_not_see_it():
    plain = made(igcv2(12, 12, branch_widths=(3, 4), residual=True))
    asked = opened(plain)
    assert is_learned(asked)
    assert not is_learned(plain)
    assert Architecture.from_json(asked.to_json()) == asked
    assert asked.cost == plain.cost
    assert asked.hash != plain.hash
    assert asked.key != plain.key
    assert [level(block) for _, block in asked.blocks()] == ["strict", "strict"]


# The gaps of each family: behind the channel-wise 3x3 (columns of the factor behind it) and where an identity shortcut meets the
# outputs (rows of the last factor). A dense factor has none.
@pytest.mark.parametrize(
    ("family", "options", "places"),
    [
        ("igcv2", {"branch_widths": (3, 4)}, [(0, 1), (2, 2)]),
        ("igcv3", {"expansion": 4, "groups": (4, 4)}, [(1, 2), (2, 2)]),
        ("igcv1", {"primary_groups": 4}, [(1, 1)]),
        ("xception", {}, []),
        ("dense", {}, []),
    ],
)
def test_where_each_family_learns(family, options, places):
    block = FAMILIES[family](12, 12, residual=True, **options)
    found, reasons = gaps(opened(made(block)))
    assert [(gap.step, gap.reader) for gap in found] == places
    assert {gap.block for gap in found} <= {"stage1.block1"}
    assert not reasons
    assert all(gap.of_rows == (gap.step == gap.reader) for gap in found)


# Whatever is learned in a strict block keeps it strict: every permutation of a small one is tried.
def test_any_learned_permutation_keeps_a_strict_block_strict():
    asked = opened(made(igcv2(6, 6, branch_widths=(2, 3), residual=True)))
    names = [gap.name for gap in gaps(asked)[0]]
    assert names == ["stage1.block1.step0", "stage1.block1.step2"]
    for order in itertools.islice(itertools.permutations(range(6)), 0, 720, 7):
        for orders in ({names[0]: order, names[1]: range(6)}, {names[0]: range(6), names[1]: order}):
            block = hardened(asked, orders).stages[0].blocks[0]
            assert level(block) == "strict"
            assert (path_counts(block.steps) == 1).all()


def test_hardening_writes_explicit_orders_in_place_of_learned_ones():
    asked = opened(made(igcv2(12, 12, branch_widths=(3, 4), residual=True)))
    rng = np.random.default_rng(0)
    orders = {gap.name: rng.permutation(12) for gap in gaps(asked)[0]}
    hard = hardened(asked, orders)
    assert not is_learned(hard)
    assert hard.cost == asked.cost
    for gap in gaps(asked)[0]:
        step = hard.stages[0].blocks[0].steps[gap.step]
        assert step.shuffle == Shuffle("explicit", order=tuple(map(int, orders[gap.name])))
    assert Architecture.from_json(hard.to_json()) == hard
    with pytest.raises(UsageError, match=r"no order for the learned shuffle stage1\.block1\.step0"):
        hardened(asked, {})
    with pytest.raises(UsageError, match="must hold each of"):
        hardened(asked, {**orders, "stage1.block1.step0": [0] * 12})


# Behind a channel-wise factor the permutation is put into the shuffle in front of it, so that no shuffle is added.
def test_hardening_adds_no_shuffle():
    plain = made(igcv3(12, 12, expansion=2, groups=(2, 2)))
    asked = opened(plain)
    order = np.random.default_rng(0).permutation(24)
    first, middle, last = (
        hardened(asked, {"stage1.block1.step1": order, "stage1.block1.step2": range(12)}).stages[0].blocks[0].steps
    )
    interleave = plain.stages[0].blocks[0].steps[0].order
    assert first.shuffle == Shuffle("explicit", order=tuple(map(int, interleave[order])))
    assert middle.shuffle == Shuffle()
    assert last.shuffle.kind == "explicit"


def _pointwise(channels: int, *groups: int, learned: int, shortcut: bool) -> Block:
    steps = tuple(
        Factor(channels, channels, groups=g, norm=i == len(groups) - 1, shuffle=LEARNED if i == learned else Shuffle())
        for i, g in enumerate(groups)
    )
    return Block(steps, shortcut=() if shortcut else None)


# Each way in which there is nothing to learn, with its reason; `reduced` interleaves there and says why.
@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (_pointwise(12, 4, 1, learned=0, shortcut=True), "the dense factor behind it absorbs any permutation"),
        (_pointwise(12, 1, 4, learned=0, shortcut=True), "the dense factor before it absorbs any permutation"),
        (_pointwise(12, 4, 3, learned=0, shortcut=True), "strict complementary, and only interleaved"),
        (_pointwise(12, 12, 12, learned=0, shortcut=True), "what follows does not mix channels"),
        (_pointwise(12, 12, 4, learned=0, shortcut=False), "the dense factor before the block absorbs"),
        (_pointwise(12, 4, 3, learned=1, shortcut=False), "what is dense behind the block absorbs"),
        (_pointwise(12, 4, 1, learned=1, shortcut=True), "the rows of a dense factor absorb any permutation"),
        (
            Block((Factor(12, 12, groups=2, sparsity=(1, 2), shuffle=LEARNED), Factor(12, 12, groups=2))),
            "beside an N:M sparsity",
        ),
        (
            Block((Factor(12, 12, groups=2, shuffle=LEARNED), Factor(12, 12, groups=2, sparsity=(1, 2)))),
            "beside an N:M sparsity",
        ),
        (Block((Factor(12, 12), Factor(12, 12, groups=2, sparsity=(1, 2), shuffle=LEARNED))), "beside an N:M sparsity"),
        (Block((Factor(12, 12), Parallel(((), ()), 12, split=(6, 6), shuffle=LEARNED))), "not behind lanes"),
        (
            Block((Parallel(((Factor(6, 6, groups=2, shuffle=LEARNED),), ()), 12, split=(6, 6)),)),
            "in lanes and shortcuts no shuffle is learned",
        ),
    ],
)
def test_where_there_is_nothing_to_learn_the_reason_is_said(block, reason):
    asked = made(block)
    found, reasons = gaps(asked)
    assert not found
    assert len(reasons) == 1
    assert reason in reasons[0]
    plain, said = reduced(asked)
    assert said == reasons
    assert not is_learned(plain)


def test_a_loose_product_learns_between_two_factors_that_mix():
    asked = made(_pointwise(12, 2, 2, learned=0, shortcut=True))
    assert [(gap.step, gap.reader) for gap in gaps(asked)[0]] == [(0, 1)]
    assert reduced(asked) == (asked, [])


def test_channels_from_a_dense_stem_have_an_order_only_beside_a_shortcut():
    block = igcv2(12, 12, branch_widths=(3, 4), shuffle="learned")
    first, second = (made(block, block), made(xception(12, 12), block))
    # Behind the dense stem and behind a dense factor: void. Behind grouped factors: not.
    assert [gap.block for gap in gaps(first)[0]] == ["stage1.block2"]
    assert gaps(second)[0] == []


def test_families_without_anything_to_learn_are_left_as_they_are():
    plain = network(PROBLEM, 12, [stage(xception, 12, 24, 2, stride=2)])
    assert opened(plain) == plain


def test_a_proposal_that_learns_is_not_the_one_with_random_shuffles():
    plain = made(igcv2(12, 12, branch_widths=(3, 4), residual=True))
    random = made(igcv2(12, 12, branch_widths=(3, 4), residual=True, shuffle="random", shuffle_seed=3))
    assert len({plain.key, random.key, opened(plain).key}) == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"way": "sinkhrn"}, "did you mean 'sinkhorn'"),
        ({"temperature": 1.0}, "final temperature 1.0 must be above 0 and below 1"),
        ({"temperature": 0.0}, "final temperature"),
        ({"penalty": -1.0}, "shuffle penalty -1.0"),
        ({"lr": 0.0}, "shuffle learning rate 0.0"),
        ({"soft_share": 0.0}, "soft share 0.0"),
        ({"soft_share": 0.95}, "at most 0.9"),
    ],
)
def test_rules_out_of_range_are_refused(values, message):
    with pytest.raises(UsageError, match=message):
        LearningRule(**values)


def test_soft_epochs():
    assert [LearningRule().soft_epochs(epochs) for epochs in (2, 3, 4, 7, 10, 30)] == [1, 1, 1, 2, 3, 9]
    with pytest.raises(UsageError, match="at least 2 epochs"):
        LearningRule().soft_epochs(1)


def test_an_explicit_order_and_learned_are_not_one_shuffle():
    data = json.loads(opened(made(igcv2(12, 12, branch_widths=(3, 4), residual=True))).to_json())
    data["stages"][0]["blocks"][0]["steps"][0]["shuffle"]["order"] = list(range(12))
    with pytest.raises(UsageError, match="an explicit shuffle has an order, others have none"):
        Architecture.from_dict(data)


# Each place of a network is asked in turn: where nothing is to be learned, every permutation is the same network by the key; where
# something is, some are different. (Strict and nearly complementary products are left as they are between their factors.)
@pytest.mark.parametrize(
    "blocks",
    [
        [igcv3(12, 12, expansion=2, groups=(2, 2)), igcv3(12, 24, expansion=2, groups=(2, 2), stride=2)],
        [igcv2(12, 12, branch_widths=(3, 4)), igcv2(12, 24, branch_widths=(3, 4), stride=2)],
        [igcv2(12, 12, branch_widths=(3, 4)), igcv2(12, 12, branch_widths=(3, 4))],
        [igcv2(12, 12, branch_widths=(3, 4)), igcv2(12, 24, branch_widths=(3, 4), stride=2, residual=True)],
        [xception(12, 12), igcv2(12, 12, branch_widths=(3, 4))],
        [xception(12, 12, residual=True), igcv2(12, 12, branch_widths=(3, 4))],
        [igcv2(12, 12, branch_widths=(3, 4)), xception(12, 12)],
        [xception(12, 12), igcv2(12, 12, branch_widths=(3, 4), residual=True), xception(12, 12)],
        [FAMILIES["igcv1"](12, 12, primary_groups=4, residual=True), FAMILIES["igcv1"](12, 12, primary_groups=4)],
    ],
    ids=lambda blocks: " ".join(f"{b.family}{b.stride}{'' if b.shortcut is None else 's'}" for b in blocks),
)
def test_reasons_agree_with_the_equivalence_key(blocks):
    stages, width = [], blocks[0].in_channels
    for block in blocks:
        stages.append(Stage((block,)))
    plain = network(PROBLEM, width, stages)
    rng = np.random.default_rng(0)
    asked = 0
    for name, block in plain.blocks():
        for index, step in enumerate(block.steps):
            one = _with_shuffle(plain, name, index, LEARNED)
            found, reasons = gaps(one)
            if reasons and "interleave" in reasons[0]:
                continue
            if reasons and ("does not mix" in reasons[0] or "no branches of several" in reasons[0]):
                continue
            orders = [rng.permutation(step.out_channels) for _ in range(4)]
            keys = {
                _with_shuffle(plain, name, index, Shuffle("explicit", order=tuple(map(int, o)))).key for o in orders
            }
            asked += 1
            if found:
                assert len(keys) > 1, (name, index)
            elif "asks the same" not in reasons[0]:
                assert len(keys) == 1, (name, index, reasons)
    assert asked >= 3


def _with_shuffle(architecture: Architecture, name: str, index: int, shuffle: Shuffle) -> Architecture:
    def changed(where: str, block: Block) -> Block:
        if where != name:
            return block
        step = replace(block.steps[index], shuffle=shuffle)
        return replace(block, steps=(*block.steps[:index], step, *block.steps[index + 1 :]))

    blocks = [changed(where, block) for where, block in architecture.blocks()]
    stages = tuple(Stage((block,)) for block in blocks[1:])
    return replace(architecture, stem=blocks[0], stages=stages)


def test_channels_of_an_image_have_places():
    stem = Block((Factor(12, 12, kernel_size=3, groups=12, shuffle=LEARNED), Factor(12, 12, groups=4, norm=True)))
    architecture = StagedArchitecture(12, 8, 10, stem, (Stage((xception(12, 12),)),))
    assert [gap.name for gap in gaps(architecture)[0]] == ["stem.step0"]


def test_hardened_parts_run_as_fast_as_proposed_ones():
    plain = made(igcv2(12, 12, branch_widths=(3, 4), residual=True))
    asked = opened(plain)
    orders = {gap.name: np.random.default_rng(0).permutation(12) for gap in gaps(asked)[0]}
    keys = [[part.key for part in parts(architecture)] for architecture in (plain, asked, hardened(asked, orders))]
    assert keys[0] == keys[1] == keys[2]
