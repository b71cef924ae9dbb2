"""Crops of large images: the same pixels as decoding, resizing and cutting whole images, with less work."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from paddle_adaptseg.config.schema import Augment, Domain, RareClasses, Roots
from paddle_adaptseg.core.errors import DataError
from paddle_adaptseg.core.labels import CITYSCAPES_19
from paddle_adaptseg.data import dataset, prepared
from paddle_adaptseg.data.augment import random_crop, recoloured
from paddle_adaptseg.data.dataset import DomainFiles
from paddle_adaptseg.data.prepared import FORMATS, prepare
from paddle_adaptseg.data.rare_classes import RareSampler
from paddle_adaptseg.data.sampling import PairStream
from paddle_adaptseg.data.toy import make_scene
from paddle_adaptseg.data.windows import image_window, label_window

STORED, SIZE, CROP = (191, 105), (256, 144), (64, 80)  # width, height


@pytest.fixture
def files(tmp_path):
    """GTA5's format, smaller by ten."""
    for part in ("images", "labels"):
        (tmp_path / "GTA5" / part).mkdir(parents=True)
    for index in range(3):
        image, label = make_scene(0, index, 0, STORED[1], STORED[0])
        Image.fromarray(image).save(tmp_path / f"GTA5/images/{index + 1:05d}.png")
        Image.fromarray(np.array(list(CITYSCAPES_19_IDS), np.uint8)[label]).save(
            tmp_path / f"GTA5/labels/{index + 1:05d}.png"
        )
    domain = Domain("gta5", Roots([str(tmp_path / "GTA5")]), "all", SIZE)
    return DomainFiles(domain, CITYSCAPES_19, labelled=True)


CITYSCAPES_19_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


@pytest.mark.parametrize("size", [(191, 105), (256, 144), (191, 144), (100, 60), (37, 300), (383, 105), (1, 1)])
def test_a_window_has_the_pixels_of_the_whole_resized_image_and_label(size):
    rng = np.random.default_rng(0)
    bgr = rng.integers(0, 256, (STORED[1], STORED[0], 3), np.uint8)
    ids = rng.integers(0, 30, STORED[::-1], np.uint8)
    image = np.asarray(Image.fromarray(bgr[:, :, ::-1].copy()).resize(size, Image.BICUBIC))
    label = np.asarray(Image.fromarray(ids).resize(size, Image.NEAREST))
    for _ in range(12):
        top, left = rng.integers(0, size[1]), rng.integers(0, size[0])
        window = slice(top, rng.integers(top, size[1]) + 1), slice(left, rng.integers(left, size[0]) + 1)
        np.testing.assert_array_equal(image_window(bgr, size, window), image[window])
        np.testing.assert_array_equal(label_window(ids, size, window), label[window])
    np.testing.assert_array_equal(image_window(bgr, size), image)
    np.testing.assert_array_equal(label_window(ids, size), label)


def plain_crop(image, label, change, rng):
    """A crop of whole arrays: mirrored first, then padded, then cut."""
    if change.mirror and rng.random() < 0.5:
        image, label = image[:, ::-1], label[:, ::-1]
    (width, height), corner = change.crop, rng.random(2)
    down, right = max(0, height - label.shape[0]), max(0, width - label.shape[1])
    image = cv2.copyMakeBorder(image, 0, down, 0, right, cv2.BORDER_CONSTANT, value=0)
    label = cv2.copyMakeBorder(label, 0, down, 0, right, cv2.BORDER_CONSTANT, value=255)
    top, left = (int(c * (n - m + 1)) for c, n, m in zip(corner, label.shape, (height, width)))
    window = slice(top, top + height), slice(left, left + width)
    return recoloured(np.ascontiguousarray(image[window]), change, rng), label[window]


@pytest.mark.parametrize("crop", [CROP, (300, 80), (64, 200), (300, 200), SIZE])
def test_a_random_crop_is_that_of_the_whole_mirrored_and_padded_image(files, crop):
    change = Augment(mirror=True, crop=crop, jitter=0.2, blur=0.5)
    whole, reading = files.pair(0, SIZE), files.reading(0, SIZE)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        one = random_crop(SIZE, SIZE, change, rng)
        label = one.of(reading.label, 255)
        image = recoloured(one.of(reading.image, 0), change, rng)
        expected = plain_crop(*whole[:2], change, np.random.default_rng(seed))
        np.testing.assert_array_equal(image, expected[0])
        np.testing.assert_array_equal(label, expected[1])


def stream_of(files, **rule):
    rare = RareSampler(np.full((len(files), 19), 9), RareClasses(min_pixels=1, **rule), 0)
    return PairStream(files, None, Augment(mirror=True, crop=CROP), 0, rare=rare)


def test_crops_that_are_cut_again_decode_image_and_label_once(files, monkeypatch):
    stream, reads = stream_of(files, min_crop_ratio=1e9), []  # no crop is ever enough
    for module, name in ((dataset, "decode_bgr"), (dataset, "image_window"), (dataset, "label_window")):
        plain = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, n=name, p=plain: reads.append(n) or p(*a))
    reader = files.readers[0]
    files.readers[0] = type(reader)(lambda ref: reads.append("label") or reader.decode(ref), reader.lut, reader.unknown)
    assert stream[0].arrays[0].shape == (CROP[1], CROP[0], 3)
    assert {n: reads.count(n) for n in reads} == {"label": 1, "decode_bgr": 1, "label_window": 11, "image_window": 1}


@pytest.mark.parametrize("kind", FORMATS)
def test_crops_of_prepared_copies_equal_those_of_the_files(files, tmp_path, kind):
    folder, _ = prepare(files, tmp_path / "cache", kind, 1)
    expected = [stream_of(files)[n].arrays for n in range(6)]
    files.cache = prepared.Cache(folder, kind)
    for one, other in zip(expected, (stream_of(files)[n].arrays for n in range(6))):
        for mine, plain in zip(one, other):
            np.testing.assert_array_equal(mine, plain)


def test_of_a_raw_copy_only_the_rows_of_a_crop_are_read(files, tmp_path, monkeypatch):
    folder, _ = prepare(files, tmp_path / "cache", "raw", 1)
    files.cache = prepared.Cache(folder, "raw")
    plain, read = np.fromfile, []
    monkeypatch.setattr(np, "fromfile", lambda *a, **k: read.append(plain(*a, **k)) or read[-1])
    part = files.reading(1, SIZE).image((slice(10, 30), slice(5, 9)))
    assert part.shape == (20, 4, 3) and sum(array.nbytes for array in read) == 20 * SIZE[0] * 3 + 16


@pytest.mark.parametrize("kind", FORMATS)
def test_a_cut_copy_is_an_error_that_names_it(files, tmp_path, kind):
    folder, _ = prepare(files, tmp_path / "cache", kind, 1)
    files.cache = prepared.Cache(folder, kind)
    path = next(folder.glob("000001_image.*"))
    whole = path.read_bytes()
    for length in (60, 17, 3, 0):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match="000001_image"):
            files.reading(1, SIZE).image((slice(10, 30), slice(5, 9)))
