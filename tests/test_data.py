"""Files in their true formats become the right train ids, and order depends on (seed, position) alone."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from paddle_adaptseg.config.loading import override
from paddle_adaptseg.config.schema import Augment, Domain, Pixels, Roots
from paddle_adaptseg.core.errors import DataError
from paddle_adaptseg.core.labels import CITYSCAPES_19
from paddle_adaptseg.data import TrainData, open_validation
from paddle_adaptseg.data.augment import normalise, random_crop, recoloured, resize_label, scaled_size
from paddle_adaptseg.data.dataset import DomainFiles
from paddle_adaptseg.data.reading import read_ahead
from paddle_adaptseg.data.sampling import shuffled_index
from paddle_adaptseg.data.toy import CAMERA, GAME, ToySpec, make_scene, write_toy_pair


def augment(image, label, size, change, rng):
    """A crop of arrays with changed colours."""
    crop = random_crop(image.shape[1::-1], size, change, rng)
    cut = crop.of(label.__getitem__, 255) if label is not None else None
    return recoloured(crop.of(image.__getitem__, 0), change, rng), cut


def domain(root, dataset="gta5", split="all", size=(96, 48)):
    return Domain(dataset, Roots([str(root)]), split, size)


def test_the_toy_pair_is_written_in_the_true_formats_and_read_back_exactly(toy_root):
    with Image.open(toy_root / "GTA5/labels/00001.png") as label:
        assert label.mode == "P"
    with Image.open(toy_root / "Cityscapes/gtFine/val/toyville/toyville_000002_000019_gtFine_labelIds.png") as label:
        assert label.mode == "L"
    for files, seed, scene_domain in (
        (DomainFiles(domain(toy_root / "GTA5"), CITYSCAPES_19, True), 0, GAME),
        (DomainFiles(domain(toy_root / "Cityscapes", "cityscapes", "train"), CITYSCAPES_19, True), 1, CAMERA),
    ):
        image, label = make_scene(seed, 2, scene_domain, 48, 96)
        assert (files.image(2) == image).all()
        assert (files.label(2, files.size) == label).all()


def test_the_toy_pair_is_a_function_of_its_seed_and_is_not_written_twice(tmp_path, toy_root):
    spec = ToySpec(source=6, target=5, validation=3, height=48, width=96)
    assert not write_toy_pair(toy_root, spec)
    assert write_toy_pair(tmp_path, spec)
    for path in toy_root.rglob("*.png"):
        assert path.read_bytes() == (tmp_path / path.relative_to(toy_root)).read_bytes()
    first, other = (make_scene(seed, 0, GAME, 48, 96)[0] for seed in (0, 2))
    assert (first != other).any()


def test_every_class_appears_in_the_toy_scenes():
    seen = {int(v) for i in range(30) for v in np.unique(make_scene(0, i, GAME, 96, 192)[1])}
    assert seen == set(range(19))


def test_labels_keep_ids_when_resized_and_evaluation_reads_full_resolution(toy_root):
    files = DomainFiles(domain(toy_root / "GTA5", size=(40, 20)), CITYSCAPES_19, True)
    assert files.image(0).shape == (20, 40, 3)
    assert files.label(0, files.size).shape == (20, 40)
    assert files.label(0).shape == (48, 96)
    label = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert resize_label(label, (6, 4))[::2, ::2].tolist() == label.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda root: root / "absent",
            "does not exist .for GTA5.*; expected .*images.{name}.png and .*labels.{name}.png",
        ),
        (
            lambda root: (root / "images/00002.png").unlink() or (root / "images/00001.png").unlink() or root,
            "no images",
        ),
        (
            lambda root: (root / "labels/00002.png").unlink() or root,
            "1 files of GTA5 .* are missing: .*00002.png has no label",
        ),
    ],
)
def test_missing_data_is_answered_with_the_expected_layout(tmp_path, change, message):
    write_toy_pair(tmp_path, ToySpec(source=2, target=1, validation=1, height=16, width=32))
    with pytest.raises(DataError, match=message):
        DomainFiles(domain(change(tmp_path / "GTA5")), CITYSCAPES_19, True)


def test_a_missing_toy_pair_is_answered_with_the_tool_that_makes_it(tmp_path):
    with pytest.raises(DataError, match="does not exist .*the generated toy pair: make it with tools/make_toy.py"):
        DomainFiles(domain(tmp_path / "toy_seed1/GTA5"), CITYSCAPES_19, True)


def test_an_unknown_split_or_broken_file_is_named(tmp_path):
    write_toy_pair(tmp_path, ToySpec(source=2, target=1, validation=1, height=16, width=32))
    with pytest.raises(DataError, match="no split 'vall': did you mean 'val'"):
        DomainFiles(domain(tmp_path / "Cityscapes", "cityscapes", "vall"), CITYSCAPES_19, True)
    files = DomainFiles(domain(tmp_path / "GTA5"), CITYSCAPES_19, True)
    broken, colour = tmp_path / "GTA5/images/00001.png", tmp_path / "GTA5/labels/00002.png"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(DataError, match="cannot read '.*images.00001.png'"):
        files.image(0)
    Image.open(colour).convert("RGB").save(colour)
    with pytest.raises(DataError, match="labels.00002.png' must hold 8-bit ids, but its mode is RGB"):
        files.label(1, files.size)


def test_order_is_a_permutation_in_every_pass_and_differs_between_passes_seeds_and_domains():
    def passes(seed, stream):
        return [[shuffled_index(seed, stream, p, 10) for p in range(e * 10, e * 10 + 10)] for e in range(2)]

    first, second = passes(0, 0)
    assert sorted(first) == sorted(second) == list(range(10))
    assert len({tuple(x) for x in (first, second, passes(1, 0)[0], passes(0, 1)[0])}) == 4


def arrays(batch):
    return [batch.source_image.numpy(), batch.source_label.numpy(), batch.target_image.numpy()]


def test_batches_are_the_same_for_any_number_of_workers_and_any_starting_step(tiny):
    config = tiny()
    plain = [arrays(b) for b in TrainData(config, True).batches(0)]
    forked = [arrays(b) for b in TrainData(override(config, "data.workers=2"), True).batches(0)]
    later = [arrays(b) for b in TrainData(config, True).batches(4)]
    assert len(plain) == len(forked) == 6 and len(later) == 2
    for one, other in [*zip(plain, forked), *zip(plain[4:], later)]:
        assert all((a == b).all() for a, b in zip(one, other))


def test_a_batch_knows_its_files_and_holds_no_target_label(tiny):
    config = tiny()
    batch = next(TrainData(config, True).batches(0))
    assert len(batch.files) == 4 and "GTA5" in batch.files[0] and "Cityscapes" in batch.files[1]
    assert not [name for name in vars(batch) if "target" in name and "label" in name]
    assert next(TrainData(config, False).batches(0)).target_image is None


def test_mirroring_turns_image_and_label_alike():
    image, label = np.arange(12, dtype=np.uint8).reshape(2, 2, 3), np.arange(4, dtype=np.uint8).reshape(2, 2)
    change = Augment(mirror=True)
    results = [augment(image, label, (2, 2), change, np.random.default_rng(s)) for s in range(8)]
    mirrored = [(i[:, ::-1] == image).all() and (la[:, ::-1] == label).all() for i, la in results]
    same = [(i == image).all() and (la == label).all() for i, la in results]
    assert all(a != b for a, b in zip(mirrored, same)) and any(mirrored) and any(same)


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("crop", [None, (20, 12)])
def test_scaling_and_cutting_keep_image_and_label_aligned_and_the_size_fixed(toy_root, factor, crop):
    files = DomainFiles(domain(toy_root / "GTA5"), CITYSCAPES_19, True)
    change, rng = Augment(scale=(factor, factor), crop=crop), np.random.default_rng(1)
    size = scaled_size(files.size, change, rng)
    coded = np.repeat(files.label(0, size)[..., None], 3, 2)  # the label as an image: both must move alike
    image, label = augment(coded, files.label(0, size), files.size, change, rng)
    width, height = crop or files.size
    assert image.shape == (height, width, 3) and label.shape == (height, width)
    inside = label != 255
    assert (image[inside][:, 0] == label[inside]).all() and (image[~inside] == 0).all()
    assert inside.all() == (factor >= 1 or crop is not None)


def test_colours_change_within_their_bounds_and_leave_the_label_alone():
    image = np.full((8, 8, 3), (90, 120, 150), np.uint8)
    label = np.zeros((8, 8), np.uint8)
    changed = [augment(image, label, (8, 8), Augment(jitter=0.2), np.random.default_rng(s)) for s in range(20)]
    assert all((la == label).all() for _, la in changed)
    means = [i.mean() for i, _ in changed]
    assert min(means) >= 0.79 * 120 and max(means) <= 1.21 * 120 and np.std(means) > 3
    blurred, _ = augment(np.eye(9, dtype=np.uint8)[..., None].repeat(3, 2) * 255, None, (9, 9), Augment(blur=1.0),
                         np.random.default_rng(0))  # fmt: skip
    assert 0 < blurred[0, 0, 0] < 255


def test_normalisation_follows_order_mean_and_std():
    import paddle

    image = paddle.to_tensor(np.array([[[[10, 20, 30]]]], np.uint8))
    bgr = normalise(image, Pixels("bgr", (1, 2, 3), (1, 1, 1))).numpy().ravel()
    rgb = normalise(image, Pixels("rgb", (10, 10, 10), (10, 10, 10))).numpy().ravel()
    assert bgr.tolist() == [29, 18, 7] and rgb.tolist() == [0, 1, 2]


def test_evaluation_reads_everything_in_order(tiny):
    config = tiny()
    for workers in (0, 2):
        samples = list(read_ahead(open_validation(config), range(3), workers=workers))
        assert [s.stem for s in samples] == [f"toyville_00000{i}_000019_leftImg8bit" for i in range(3)]
        assert samples[0].images[0].shape == (48, 96, 3) and samples[0].ground_truth.shape == (48, 96)
