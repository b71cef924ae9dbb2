"""Rare-class sampling: class counts once, the originals' probabilities, a draw for every position."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from paddle_adaptseg.config.schema import RareClasses
from paddle_adaptseg.core.errors import DataError
from paddle_adaptseg.data import TrainData, rare_classes
from paddle_adaptseg.data.rare_classes import RareSampler, class_counts, first_good, is_enough, probabilities

ON = "data.rare_classes={temperature: 0.05, min_pixels: 20}"


@pytest.fixture
def config(tiny, tmp_path):
    return lambda *more: tiny("toy/minent", ON, f"data.cache={tmp_path / 'cache'}", *more)


def test_rare_classes_are_drawn_more_often():
    classes, chance = probabilities(np.array([100, 0, 700, 200]), 0.5)
    weight = np.exp(np.array([0.9, 0.8, 0.3]) / 0.5)
    assert classes.tolist() == [0, 3, 2]
    np.testing.assert_allclose(chance, weight / weight.sum())


def test_a_draw_depends_on_seed_and_position_and_its_file_holds_the_class():
    counts = np.array([[50, 0, 900], [5, 60, 900], [70, 70, 0]])
    sampler = RareSampler(counts, RareClasses(temperature=0.3, min_pixels=40), 1)
    draws = [sampler.draw(n) for n in range(500)]
    assert draws == [RareSampler(counts, sampler.rule, 1).draw(n) for n in range(500)]
    assert draws != [RareSampler(counts, sampler.rule, 2).draw(n) for n in range(500)]
    assert all(counts[file, wanted] > 40 for wanted, file in draws)
    shares = np.bincount([wanted for wanted, _ in draws], minlength=3) / 500
    np.testing.assert_allclose(shares[sampler.classes], sampler.chance, atol=0.08)


def test_a_class_that_no_file_holds_often_enough_is_never_drawn_and_named():
    sampler = RareSampler(np.array([[50, 3], [60, 0]]), RareClasses(min_pixels=40), 0)
    assert {sampler.draw(n)[0] for n in range(50)} == {0} and sampler.unused == [1]
    assert "in no image often enough to be drawn: wall" in sampler.note(["road", "wall"])
    with pytest.raises(DataError, match="has over data.rare_classes.min_pixels=100 pixels"):
        RareSampler(np.array([[50, 3]]), RareClasses(min_pixels=100), 0)


@pytest.mark.parametrize(("pixels", "loads", "kept"), [([9], 1, 9), ([1, 2, 8], 3, 8), ([1] * 10 + [3], 11, 3)])
def test_a_crop_with_too_few_pixels_is_cut_again_up_to_the_limit(pixels, loads, kept):
    assert first_good(pixels.__getitem__, lambda n: n > 5, 10) == (loads, kept)


def test_a_crop_needs_enough_of_its_class_and_where_asked_not_too_much_of_one():
    label = np.full((10, 10), 1, np.uint8)
    label[:2], label[9] = 3, 255
    assert is_enough(label, 3, RareClasses(min_pixels=38)) and not is_enough(label, 3, RareClasses(min_pixels=40))
    assert is_enough(label, 3, RareClasses(min_pixels=0, largest_share=0.78))  # 70 of 90
    assert not is_enough(label, 3, RareClasses(min_pixels=0, largest_share=0.77))
    assert not is_enough(label[2:9], 1, RareClasses(min_pixels=0, largest_share=0.999))  # one class alone


def test_counts_are_those_of_the_labels_as_stored_and_are_kept(config, monkeypatch, capsys):
    data = TrainData(config(), False)
    expected = [np.bincount(data.source.label(i).ravel(), minlength=256)[:19] for i in range(len(data.source))]
    kept = class_counts(data.source, data.config.data.cache)
    np.testing.assert_array_equal(kept, expected)
    monkeypatch.setattr(type(data.source), "label", None)  # would fail if it were called
    np.testing.assert_array_equal(class_counts(data.source, data.config.data.cache), kept)


def test_damaged_or_outdated_counts_are_counted_again(config, tmp_path, capsys):
    data = TrainData(config(), False)
    (path,) = (tmp_path / "cache").glob("classes_*.npz")
    whole = class_counts(data.source, str(tmp_path / "cache"))
    path.write_bytes(path.read_bytes()[:-40])
    np.testing.assert_array_equal(class_counts(data.source, str(tmp_path / "cache")), whole)
    assert "are damaged: counting again" in capsys.readouterr().out
    np.savez_compressed(path, counts=whole + 1, sha256="wrong")
    np.testing.assert_array_equal(class_counts(data.source, str(tmp_path / "cache")), whole)
    label = data.source.items[0].label
    name = Path(label.store) / label.name
    before = name.stat()
    try:
        os.utime(name, (1, 1))
        class_counts(data.source, str(tmp_path / "cache"))
        assert len(list((tmp_path / "cache").glob("classes_*.npz"))) == 2
    finally:
        os.utime(name, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_processes_count_a_share_each(config):
    data = TrainData(config(), False)
    whole, parts = class_counts(data.source, ""), []
    for rank in range(2):
        class_counts(data.source, "", rank, 2, lambda array: parts.append(array) or array)
    np.testing.assert_array_equal(sum(part for part in parts if part.ndim == 2), whole)


def test_counts_that_cannot_be_kept_are_said_and_used(config, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    data = TrainData(config(f"data.cache={tmp_path / 'file'}"), False)
    assert "are not kept" in capsys.readouterr().out and data.rare is not None


def test_training_reads_the_drawn_files_the_same_for_any_number_of_workers_and_processes(config):
    one = TrainData(config("data.batch_size=4", "data.augment.crop=[48, 32]"), False)
    whole = list(one.batches(2))
    for number, batch in enumerate(whole, 2):
        assert batch.positions == tuple(range(4 * number, 4 * number + 4))
        drawn = [one.source.name(one.rare.draw(p)[1]) for p in batch.positions]
        assert [name for name in batch.files if "GTA5" in name] == drawn
    with_workers = TrainData(config("data.batch_size=4", "data.augment.crop=[48, 32]", "data.workers=2"), False)
    halved = config("data.batch_size=2", "data.augment.crop=[48, 32]")
    parts = [TrainData(halved, False, rank, 2, lambda array: 2 * array) for rank in range(2)]  # both find the counts
    for batch, other, *halves in zip(whole, with_workers.batches(2), *(part.batches(2) for part in parts)):
        np.testing.assert_array_equal(batch.source_label.numpy(), other.source_label.numpy())
        for rank, half in enumerate(halves):
            np.testing.assert_array_equal(batch.source_image.numpy()[rank::2], half.source_image.numpy())
            assert half.positions == batch.positions[rank::2]


def test_a_crop_without_its_class_is_cut_again(config):
    rule = "data.rare_classes={temperature: 0.05, min_pixels: 20, min_crop_ratio: 2.0, tries: 20}"
    crops = "data.augment.crop=[32, 24]"
    counts = []
    for more in ([rule], [rule, "data.rare_classes.tries=0"]):
        data = TrainData(config(crops, *more), False)
        found = 0
        for batch in data.batches(0):
            for position, label in zip(batch.positions, batch.source_label.numpy()):
                found += int((label == data.rare.draw(position)[0]).sum() > 40)
        counts.append(found)
    assert counts[0] > counts[1]


def test_the_log_says_what_is_drawn(config):
    (line,) = [line for line in TrainData(config(), False).notes() if "rare classes" in line]
    assert "rare classes are drawn more often: " in line and " %" in line
    assert rare_classes.RareClasses is RareClasses
