"""The views in which a teacher sees an image: which of them count, and what they do to its colours."""

import numpy as np
import paddle
import pytest

from paddle_adaptseg.config.schema import Pixels
from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.methods.augment import from_unit, to_unit
from paddle_adaptseg.methods.teacher import MeanTeacher, PseudoLabels, Teacher
from paddle_adaptseg.methods.views import VIEWS, surest

SURE, UNSURE = [0.9, 0.05, 0.05], [0.4, 0.3, 0.3]


def predictions(*images):
    """Probabilities [N, 3, 1, W] of images, each a list of pixels."""
    return paddle.to_tensor(np.array(images, np.float32).transpose(0, 2, 1)[:, :, None])


def test_of_each_image_the_view_of_the_least_entropy_counts():
    first, second = predictions([SURE, SURE], [UNSURE, SURE]), predictions([SURE, UNSURE], [SURE, SURE])
    found = surest([first, second], 1).numpy()
    np.testing.assert_allclose(found, predictions([SURE, SURE], [SURE, SURE]).numpy(), atol=1e-7)
    both = surest([first, second], 2).numpy()
    np.testing.assert_allclose(both, ((first + second) / 2).numpy(), atol=1e-7)


def test_padding_has_no_say_in_which_view_is_the_surest():
    first, second = predictions([SURE, UNSURE, UNSURE]), predictions([UNSURE, SURE, SURE])
    np.testing.assert_array_equal(surest([first, second], 1).numpy(), second.numpy())
    valid = paddle.to_tensor([[[1.0, 0.0, 0.0]]])
    np.testing.assert_array_equal(surest([first, second], 1, valid).numpy(), first.numpy())


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_vivid_and_dull_views_change_brightness_and_saturation_and_nothing_else(order):
    pixels = Pixels(order=order, mean=(104.0, 117.0, 123.0), std=(58.0, 57.0, 56.0))
    rgb = paddle.to_tensor([0.4, 0.3, 0.2]).reshape([1, 3, 1, 1])
    for name, bright, vivid in (("vivid", 1.25, 2.0), ("dull", 0.8, 0.5)):
        found = to_unit(VIEWS[name].change(from_unit(rgb, pixels), pixels), pixels).flatten().numpy()
        colour = np.array([0.4, 0.3, 0.2]) * bright
        grey = colour @ [0.299, 0.587, 0.114]
        np.testing.assert_allclose(found, grey + vivid * (colour - grey), atol=1e-5)


class SurerOfVividImages(paddle.nn.Layer):
    """The more vivid an image, the further apart are its logits."""

    def main(self, image):
        return 20.0 * (image - image.mean(axis=1, keepdim=True))


@pytest.mark.parametrize("count, expected", [(1, ["vivid"]), (2, ["plain", "vivid"]), (0, ["plain", "dull", "vivid"])])
def test_a_teacher_labels_a_dull_image_from_the_views_that_it_is_sure_of(count, expected):
    network, pixels = SurerOfVividImages(), Pixels(order="rgb", mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0))
    image = 0.3 + 0.1 * paddle.rand([2, 3, 4, 6])
    rule = PseudoLabels(views=("plain", "dull", "vivid"), surest=count)
    found = MeanTeacher(network, Teacher(), rule, pixels).probability(image)
    each = [paddle.nn.functional.softmax(network.main(VIEWS[name].change(image, pixels)), axis=1) for name in expected]
    np.testing.assert_allclose(found.numpy(), (sum(each) / len(each)).numpy(), atol=1e-6)


def test_what_a_view_moves_is_moved_back():
    image = paddle.rand([2, 3, 4, 6])
    assert not bool((VIEWS["mirror"].change(image, Pixels()) == image).all())
    for name in ("plain", "mirror"):
        np.testing.assert_array_equal(VIEWS[name].undo(VIEWS[name].change(image, Pixels())).numpy(), image.numpy())
    for name in ("vivid", "dull"):
        np.testing.assert_array_equal(VIEWS[name].undo(image).numpy(), image.numpy())


@pytest.mark.parametrize("count", [-1, 3])
def test_more_sure_views_than_there_are_is_one_line(count):
    with pytest.raises(
        ConfigError, match=r"method.pseudo_labels.surest must be between 0 \(all\) and 2 views"
    ) as caught:
        PseudoLabels(views=("plain", "vivid"), surest=count).check("method.pseudo_labels")
    assert "\n" not in str(caught.value)
