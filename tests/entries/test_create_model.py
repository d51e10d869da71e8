"""create_model keeps timm's conventions for another head and other input channels."""

from __future__ import annotations

import pytest
import torch

from igcsearch.entries import Entry, create_model
from igcsearch.entries.models import adapt_input_weight
from igcsearch.errors import UsageError

NEW_HEAD = ("classifier.weight", "classifier.bias")


@pytest.mark.parametrize("classes", [2, 4, 6, 1000])
def test_other_head_is_new_and_all_else_is_kept(entry: Entry, weights: dict[str, torch.Tensor], classes: int) -> None:
    torch.manual_seed(0)
    first = create_model(entry.name, pretrained=True, num_classes=classes)
    second = create_model(entry.name, pretrained=True, num_classes=classes)
    assert first(torch.randn(2, 3, 8, 8)).shape == (2, classes)
    for key, value in first.state_dict().items():
        if key in NEW_HEAD:
            assert value.shape[0] == classes
        else:
            assert torch.equal(value, weights[key])
    assert not torch.equal(first.classifier.weight, second.classifier.weight), "randomly initialised"
    assert first.pretrained_cfg["class_names"] is None
    assert first.pretrained_cfg["num_classes"] == classes


def test_same_head_is_kept(entry: Entry, weights: dict[str, torch.Tensor]) -> None:
    net = create_model(entry.name, pretrained=True, num_classes=5, in_chans=3)
    assert all(torch.equal(value, weights[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 7])
def test_other_channels_change_the_stem_alone(entry: Entry, weights: dict[str, torch.Tensor], channels: int) -> None:
    net = create_model(entry.name, pretrained=True, in_chans=channels)
    assert net(torch.randn(2, channels, 8, 8)).shape == (2, 5)
    different = [key for key, value in net.state_dict().items() if not torch.equal(value, weights[key])]
    assert len(different) == 1
    assert different[0].startswith("stem.")
    assert len(net.pretrained_cfg["mean"]) == channels


def test_grey_images_give_what_equal_channels_gave(entry: Entry) -> None:
    """One channel: weights are summed, so a grey image gives the logits of the same image in all three channels."""
    images_N1HW = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        three = create_model(entry.name, pretrained=True)(images_N1HW.expand(-1, 3, -1, -1))
        one = create_model(entry.name, pretrained=True, in_chans=1)(images_N1HW)
        six = create_model(entry.name, pretrained=True, in_chans=6)(images_N1HW.expand(-1, 6, -1, -1))
    torch.testing.assert_close(one, three)
    torch.testing.assert_close(six, three)


def test_adapted_weight_is_timms(weights: dict[str, torch.Tensor]) -> None:
    """For three published channels, element by element as timm's adapt_input_conv is defined."""
    weight = torch.randn(4, 3, 5, 5)
    for channels in (2, 4, 5):
        new = adapt_input_weight(weight, channels)
        for i in range(channels):
            torch.testing.assert_close(new[:, i], weight[:, i % 3] * 3 / channels)
    torch.testing.assert_close(adapt_input_weight(weight, 1)[:, 0], weight[:, 0] + weight[:, 1] + weight[:, 2])


def test_untrained_network(entry: Entry, weights: dict[str, torch.Tensor]) -> None:
    net = create_model(entry.name, num_classes=9, in_chans=2)
    assert net(torch.randn(2, 2, 8, 8)).shape == (2, 9)
    assert net.training
    assert not torch.equal(create_model(entry.name).classifier.weight, weights["classifier.weight"])
    torch.manual_seed(3)
    first = create_model(entry.name).classifier.weight
    torch.manual_seed(3)
    assert torch.equal(first, create_model(entry.name).classifier.weight)


def test_untrained_network_needs_no_weights(entry: Entry) -> None:
    entry.weights.write_bytes(b"damaged")
    create_model(entry.name)
    with pytest.raises(UsageError, match="SHA-256"):
        create_model(entry.name, pretrained=True)


# Rule: images of another side change what a network costs and is fed, not its weights.
def test_another_image_size(entry: Entry, weights: dict[str, torch.Tensor]) -> None:
    net = create_model(entry.name, pretrained=True, image_size=12)
    assert net.pretrained_cfg["input_size"] == (3, 12, 12)
    assert net.architecture == entry.architecture.with_(image_size=12)
    assert all(torch.equal(value, weights[key]) for key, value in net.state_dict().items())
    assert create_model(entry.name).pretrained_cfg["input_size"] == (3, 8, 8)
    with pytest.raises(UsageError, match="image size 2 is too small"):
        create_model(entry.name, image_size=2)


# Rule: 0 classes leave the classifier out, as in timm: the pooled features that it would have read.
@pytest.mark.parametrize("pretrained", [False, True])
def test_no_classes_give_features(entry: Entry, pretrained: bool) -> None:
    net = create_model(entry.name, pretrained=pretrained, num_classes=0, in_chans=1).eval()
    images_NCHW = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        features_NF = net(images_NCHW)
        assert torch.equal(features_NF, net.forward_features(images_NCHW))
        assert features_NF.shape == (2, entry.architecture.features)
        if pretrained:
            whole = create_model(entry.name, pretrained=True, in_chans=1)
            torch.testing.assert_close(whole.classifier(features_NF), whole(images_NCHW))
        for measure in (False, True):
            fast = net.optimize_for_inference(images_NCHW, measure=measure)
            torch.testing.assert_close(fast(images_NCHW), features_NF, rtol=1e-4, atol=1e-4)
            with pytest.raises(RuntimeError, match="should be the same"):
                fast(images_NCHW.double())
    assert not any(key in net.state_dict() for key in NEW_HEAD)
    assert (net.pretrained_cfg["num_classes"], net.pretrained_cfg["class_names"]) == (0, None)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("num_classes", value) for value in (1, -1, 0.0, False)),
        *(("in_chans", value) for value in (0, -1, 1.5)),
        *(("image_size", value) for value in (0, -1, 32.5)),
    ],
)
def test_bad_numbers(entry: Entry, option: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"{option} {value}: a whole number of "):
        create_model(entry.name, **{option: value})  # type: ignore[arg-type]
