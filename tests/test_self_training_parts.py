"""The parts of self-training, against numbers computed by hand."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from paddle_adaptseg.config.schema import Pixels
from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.data.batch import Batch
from paddle_adaptseg.methods import augment, mixing, teacher
from paddle_adaptseg.methods.base import Clock
from paddle_adaptseg.methods.choices import Choices
from paddle_adaptseg.methods.losses import pixel_cross_entropy, softmax, weighted_cross_entropy

LABEL = paddle.to_tensor([[[0, 0, 3], [255, 3, 7]], [[1, 1, 1], [1, 1, 1]]])


def table(*rows):
    array = np.zeros((len(rows), 256), np.float32)
    for row, values in zip(array, rows):
        row[list(values)] = 1
    return array


def test_the_values_of_every_label_are_found_255_among_them():
    np.testing.assert_array_equal(mixing.present_values(LABEL).numpy(), table([0, 3, 7, 255], [1]))


def test_half_of_the_classes_is_chosen_rounded_up_by_the_smallest_numbers():
    ranks = np.full((2, 256), 0.5, np.float32)
    ranks[0, [0, 3, 7, 255]] = 0.9, 0.1, 0.8, 0.2
    ranks[0, 100] = 0.0  # not there
    chosen = mixing.choose_half(paddle.to_tensor(table([0, 3, 7, 255], [1])), paddle.to_tensor(ranks))
    np.testing.assert_array_equal(chosen.numpy(), table([3, 255], [1]))
    odd = mixing.choose_half(paddle.to_tensor(table([0, 3, 255])), paddle.to_tensor(ranks[:1]))
    np.testing.assert_array_equal(odd.numpy(), table([3, 255]))


def test_chosen_classes_are_pasted_with_image_label_and_weight():
    pasted = mixing.pasted_pixels(LABEL, paddle.to_tensor(table([3, 255], [])))
    np.testing.assert_array_equal(pasted.numpy()[0], [[0, 0, 1], [1, 1, 0]])
    assert not pasted.numpy()[1].any()
    source, target = paddle.full([2, 3, 2, 3], 1.0), paddle.full([2, 3, 2, 3], 2.0)
    mixed = mixing.paste(pasted, source, target).numpy()
    np.testing.assert_array_equal(mixed[0, 2], [[2, 2, 1], [1, 1, 2]])
    label = mixing.paste(pasted, LABEL, paddle.full_like(LABEL, 9)).numpy()
    np.testing.assert_array_equal(label[0], [[9, 9, 3], [255, 3, 9]])


def test_choices_depend_on_seed_step_and_image_alone():
    whole = Batch(paddle.zeros([2, 3, 1, 1]), paddle.zeros([2, 1, 1], "int64"), None, positions=(6, 7))
    second = Batch(paddle.zeros([1, 3, 1, 1]), paddle.zeros([1, 1, 1], "int64"), None, positions=(7,))
    ranks = Choices(3).class_ranks(whole, Clock(3, 9))
    np.testing.assert_array_equal(ranks[1:], Choices(3).class_ranks(second, Clock(5, 9)))
    unnamed = Batch(whole.source_image, whole.source_label, None)
    np.testing.assert_array_equal(ranks, Choices(3).class_ranks(unnamed, Clock(3, 9)))
    assert not np.array_equal(ranks[0], ranks[1])
    assert not np.array_equal(ranks, Choices(4).class_ranks(whole, Clock(3, 9)))
    keys = [(0, 6), (1, 6)]
    blocks = Choices(3).blocks(keys, (40, 50), 0.7)
    assert abs(blocks.mean() - 0.3) < 0.05 and not np.array_equal(blocks[0], blocks[1])
    np.testing.assert_array_equal(blocks[1:], Choices(3).blocks(keys[1:], (40, 50), 0.7))


def test_blocks_cover_the_image_and_halves_round_to_even():
    assert mixing.block_grid((96, 160), 64) == (2, 2) and mixing.block_grid((80, 112), 32) == (2, 4)
    assert mixing.block_grid((10, 10), 64) == (1, 1)
    mask = mixing.block_mask(np.array([[[1, 0], [0, 1]]], bool), (4, 6)).numpy()
    np.testing.assert_array_equal(mask[0, 0], [[1, 1, 1, 0, 0, 0]] * 2 + [[0, 0, 0, 1, 1, 1]] * 2)


def test_weighted_cross_entropy_has_two_means():
    logits = paddle.to_tensor(np.log([0.5, 0.25, 0.25]).astype(np.float32).reshape(1, 3, 1, 1)).expand([1, 3, 1, 4])
    label = paddle.to_tensor([[[0, 1, 255, 2]]])
    ce = [math.log(2), math.log(4), 0.0, math.log(4)]
    np.testing.assert_allclose(pixel_cross_entropy(logits, label).numpy().ravel(), ce, rtol=1e-6)
    weight = paddle.to_tensor([[[1.0, 0.5, 1.0, 0.0]]])
    total = ce[0] + 0.5 * ce[1]
    assert float(weighted_cross_entropy(logits, label, weight)) == pytest.approx(total / 4)
    assert float(weighted_cross_entropy(logits, label, weight, "valid")) == pytest.approx(total / 3)
    assert float(weighted_cross_entropy(logits, label)) == pytest.approx(sum(ce) / 4)
    nothing = paddle.full_like(label, 255)
    assert float(weighted_cross_entropy(logits, nothing, None, "valid")) == 0.0


def test_the_factor_of_a_teacher_grows_with_the_step():
    daformer, vfm, plain = teacher.Teacher(), teacher.Teacher(ramp=2), teacher.Teacher(0.9, 0)
    assert [daformer.factor(s) for s in (0, 1, 3, 998, 999, 5000)] == pytest.approx(
        [0, 0.5, 0.75, 998 / 999, 0.999, 0.999]
    )
    assert [vfm.factor(s) for s in (0, 1, 997)] == pytest.approx([0.5, 2 / 3, 998 / 999])
    assert plain.factor(0) == plain.factor(7) == 0.9


def test_a_teacher_averages_parameters_and_leaves_buffers():
    def network(value):
        net = paddle.nn.Sequential(paddle.nn.Conv2D(1, 1, 1), paddle.nn.BatchNorm2D(1))
        for tensor in net.state_dict().values():
            tensor.set_value(paddle.full_like(tensor, value))
        return net

    student, mean = network(8.0), teacher.freeze(network(4.0))
    teacher.update_average(mean, student, 0.75)
    values = {name: float(tensor.reshape([-1])[0]) for name, tensor in mean.state_dict().items()}
    assert {n: v for n, v in values.items() if n.split(".")[1] in ("weight", "bias")} == pytest.approx(
        {"0.weight": 5.0, "0.bias": 5.0, "1.weight": 5.0, "1.bias": 5.0}
    )
    assert values["1._mean"] == values["1._variance"] == 4.0
    teacher.update_average(mean, student, 0.0)
    assert float(mean[0].weight.mean()) == 8.0 and float(mean[1]._mean.mean()) == 4.0
    teacher.copy_network(student, mean)
    assert float(mean[1]._mean.mean()) == 8.0
    assert all(p.stop_gradient for p in mean.parameters())


def test_a_teacher_takes_the_batchs_statistics_and_has_no_dropout_unless_told():
    net = paddle.nn.Sequential(paddle.nn.BatchNorm2D(1), paddle.nn.Dropout())
    teacher.Teacher().set_modes(net)
    assert (net[0].training, net[1].training) == (True, False)
    teacher.Teacher(modes={"norms": "eval", "dropout": "train"}).set_modes(net)
    assert (net[0].training, net[1].training) == (False, True)


@pytest.mark.parametrize("wrong", [{"decay": 2.0}, {"ramp": -1}, {"update": "soon"}, {"modes": {"norm": "eval"}}])
def test_a_teacher_with_meaningless_values_is_refused(wrong):
    with pytest.raises(ConfigError, match="method.teacher"):
        teacher.Teacher(**wrong).check("method.teacher")


def test_pseudo_labels_are_thresholded_in_their_weight_not_in_their_class():
    p = np.array([[[0.6, 0.5, 0.9], [0.5, 0.7, 0.2]], [[0.1, 0.2, 0.3], [0.4, 0.6, 0.5]]], np.float32)
    logits = paddle.to_tensor(np.log(np.stack([p, 1 - p], 1)))
    label, sure = teacher.labels_of(softmax(logits), 0.7)
    np.testing.assert_array_equal(label.numpy()[0], [[0, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(sure.numpy(), [[[0, 0, 1], [0, 1, 1]], [[1, 1, 1], [0, 0, 0]]])
    valid = paddle.ones_like(sure)
    assert float(teacher.pixel_weights(sure, "batch", valid)[0, 0, 0]) == pytest.approx(0.5)
    assert float(teacher.pixel_weights(sure, "batch", valid, paddle.to_tensor(0.25))[1, 0, 0]) == 0.25
    np.testing.assert_allclose(teacher.pixel_weights(sure, "image", valid).numpy()[:, 0, 0], [0.5, 0.5])
    np.testing.assert_array_equal(teacher.pixel_weights(sure, "pixel", valid).numpy(), sure.numpy())
    valid[0, :, 0] = 0.0  # two pixels, none of them sure, are padding
    weights = {kind: teacher.pixel_weights(sure, kind, valid).numpy() for kind in teacher.WEIGHTS}
    assert not any(weight[0, :, 0].any() for weight in weights.values())
    assert weights["batch"].max() == pytest.approx(0.6)
    np.testing.assert_allclose(weights["image"].max(axis=(1, 2)), [0.75, 0.5])


def test_margins_are_rows_or_shares():
    ones = paddle.ones([1, 4, 4])
    rows = teacher.without_margins(ones, (1, 2, 0, 1)).numpy()[0]
    np.testing.assert_array_equal(rows, [[0] * 4, [1, 1, 1, 0], [0] * 4, [0] * 4])
    np.testing.assert_array_equal(teacher.without_margins(ones, (0.25, 0.5, 0, 0.3)).numpy()[0], rows)
    assert float(teacher.without_margins(ones, (3, 3, 0, 0)).sum()) == 0
    with pytest.raises(ConfigError, match="whole rows or shares"):
        teacher.PseudoLabels(margins=(1.5, 0, 0, 0)).check("method.pseudo_labels")
    with pytest.raises(ConfigError, match="unknown kind"):
        teacher.PseudoLabels(weight="all").check("method.pseudo_labels")


def pixel(*rgb):
    return paddle.to_tensor(np.array(rgb, np.float32).reshape(1, 3, 1, 1))


@pytest.mark.parametrize(
    ("change", "factor", "expected"),
    [
        (augment.brightness, 1.5, (0.9, 0.3, 0.15)),
        (augment.added_brightness, 1.5, (1.0, 0.7, 0.6)),
        (augment.added_brightness, 0.7, (0.3, 0.0, 0.0)),
        # grey: 0.299 * 0.6 + 0.587 * 0.2 + 0.114 * 0.1 = 0.3082
        (augment.contrast, 0.5, (0.4541, 0.2541, 0.2041)),
        (augment.saturation, 0.5, (0.4541, 0.2541, 0.2041)),
        (augment.saturation, 2.0, (0.8918, 0.0918, 0.0)),
        # hue-saturation-value: value 0.6, saturation 0.5 / 0.6, hue (0.2 - 0.1) / 0.5 / 6 = 1/30
        (augment.scaled_saturation, 0.6, (0.6, 0.36, 0.3)),
        (augment.scaled_saturation, 2.0, (0.6, 0.12, 0.0)),
        (augment.hue, 1 / 3, (0.1, 0.6, 0.2)),
        (augment.hue, -1 / 3, (0.2, 0.1, 0.6)),
        (augment.hue, 0.5, (0.1, 0.5, 0.6)),
        (augment.hue, 1 / 10, (0.6, 0.5, 0.1)),
        (augment.hue, 1 / 5, (0.4, 0.6, 0.1)),
    ],
)
def test_colours_change_as_torchvision_and_kornia_say(change, factor, expected):
    np.testing.assert_allclose(change(pixel(0.6, 0.2, 0.1), factor).numpy().ravel(), expected, atol=2e-6)


def test_grey_pixels_and_all_six_sectors_of_hue_survive_the_way_through_hsv():
    rng = np.random.default_rng(0)
    image = paddle.to_tensor(np.concatenate([rng.random((1, 3, 8, 8)), np.full((1, 3, 8, 8), 0.3)]).astype(np.float32))
    image[1, :, 0, 0] = 0.0
    np.testing.assert_allclose(augment.from_hsv(*augment.to_hsv(image)).numpy(), image.numpy(), atol=1e-6)
    h, s, v = augment.to_hsv(pixel(0.2, 0.1, 0.6))
    assert tuple(float(n.numpy().item()) for n in (h, s, v)) == pytest.approx((1 / 30 + 2 / 3, 5 / 6, 0.6), abs=1e-6)


def test_contrast_turns_about_the_mean_brightness_of_the_image():
    image = paddle.concat([pixel(0.2, 0.2, 0.2), pixel(0.6, 0.6, 0.6)], axis=3)
    np.testing.assert_allclose(augment.contrast(image, 2.0).numpy()[0, 0, 0], [0.0, 0.8], atol=1e-6)


def test_pixels_come_back_from_the_unit_range_whatever_the_normalisation():
    x = paddle.randn([1, 3, 4, 4])
    for pixels in (Pixels(), Pixels("rgb", (120.0, 110.0, 100.0), (60.0, 50.0, 40.0))):
        np.testing.assert_allclose(augment.from_unit(augment.to_unit(x, pixels), pixels).numpy(), x.numpy(), atol=2e-5)
    blue = augment.to_unit(pixel(255 - 104.00698793, -116.66876762, -122.67891434), Pixels())
    np.testing.assert_allclose(blue.numpy().ravel(), [0, 0, 1], atol=1e-6)


def test_the_kernel_of_the_blur_is_odd_and_about_a_tenth_of_the_side():
    assert [augment.blur_kernel(n) for n in (256, 512, 1024, 640)] == [25, 51, 103, 63]


def test_a_blur_is_a_normalised_gaussian_with_reflected_borders():
    image = np.zeros((1, 3, 50, 50), np.float32)
    image[0, :, 20, 30] = 1.0
    blurred = augment.blur(paddle.to_tensor(image), 0.8).numpy()
    g = np.exp(-0.5 * (np.arange(-2, 3) / 0.8) ** 2)  # 50 pixels: a kernel of 5
    g /= g.sum()
    np.testing.assert_allclose(blurred[0, 1, 18:23, 28:33], np.outer(g, g), atol=1e-6)
    assert blurred.sum() == pytest.approx(3, rel=1e-5)
    flat = augment.blur(paddle.full([1, 3, 40, 60], 0.4), 1.1).numpy()
    np.testing.assert_allclose(flat, 0.4, rtol=1e-5)
    edge = np.zeros((1, 3, 50, 50), np.float32)
    edge[0, :, 1, 25] = 1.0
    np.testing.assert_allclose(
        augment.blur(paddle.to_tensor(edge), 0.8).numpy()[0, 0, 0, 25], 2 * g[1] * g[2], rtol=1e-5
    )


def test_strong_changes_are_functions_of_their_generators_and_of_nothing_else():
    image, pixels, strong = (
        paddle.randn([3, 3, 32, 32]),
        Pixels(std=(50.0, 50.0, 50.0)),
        augment.Strong(blur_chance=1.0),
    )

    def change(images, numbers):
        chances, rngs = ([np.random.default_rng([k, n]) for n in numbers] for k in (0, 1))
        return strong(images, pixels, chances, rngs).numpy()

    whole = change(image, (0, 1, 2))
    np.testing.assert_array_equal(change(image[1:2], (1,)), whole[1:2])
    assert not np.allclose(whole, image.numpy())
    never = augment.Strong(jitter_chance=0.0, blur_chance=0.0)
    rngs = [np.random.default_rng(0)] * 3
    np.testing.assert_array_equal(never(image, pixels, rngs, rngs).numpy(), image.numpy())


def test_the_strengths_of_jitter_stay_in_their_ranges():
    strong = augment.Strong(jitter=0.3, hue=0.05)
    drawn = np.array([strong.draw(np.random.default_rng(n))[0] for n in range(300)])
    assert drawn[:, :3].min() > 0.7 and drawn[:, :3].max() < 1.3 and np.abs(drawn[:, 3]).max() < 0.05
    assert np.ptp(drawn[:, 0]) > 0.5 and np.ptp(drawn[:, 3]) > 0.08


def test_mirrored_images_take_their_labels_and_weights_along():
    image, label = paddle.arange(6).reshape([2, 1, 1, 3]), paddle.arange(6).reshape([2, 1, 3])
    one, two = augment.mirror([False, True], image, label)
    assert one.numpy().ravel().tolist() == [0, 1, 2, 5, 4, 3] == two.numpy().ravel().tolist()
