"""A user's own folders, adapted in one command: pairs, classes and sizes are guessed; no target label is needed."""

from __future__ import annotations

import builtins
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddle_adaptseg.config.loading import load_config
from paddle_adaptseg.core.errors import DataError, UserError
from paddle_adaptseg.data.pairs import list_items
from paddle_adaptseg.lab.adapt import RECIPES, Request, write_project
from paddle_adaptseg.lab.commands import adapt, init
from paddle_adaptseg.lab.own_data import class_table, pairs_of, working_size

CLASSES = "classes:\n- {name: ground, ids: [3, 4], colour: [1, 2, 3]}\n- {name: sky, ids: [9], colour: [4, 5, 6]}\n"


@pytest.fixture
def folders(tmp_path):
    """Labelled images of a game, and street images."""
    rng = np.random.default_rng(0)
    for name in ("game/rgb/day", "game/ids/day", "street"):
        (tmp_path / name).mkdir(parents=True)
    for number in range(4):
        image = Image.fromarray(rng.integers(0, 255, (48, 96, 3)).astype(np.uint8))
        image.save(tmp_path / f"game/rgb/day/{number:03d}_rgb.png")
        label = np.full((48, 96), 3, np.uint8)
        label[:20] = 9
        label[40:, :10] = 77  # an id without a name
        Image.fromarray(label).save(tmp_path / f"game/ids/day/{number:03d}_ids.png")
        image.save(tmp_path / f"street/frame{number}.jpg")
    (tmp_path / "classes.yml").write_text(CLASSES)
    return tmp_path


def request(folder: Path, **more) -> Request:
    given = {"classes": str(folder / "classes.yml"), **more}
    return Request(folder / "game/rgb", folder / "game/ids", folder / "street", folder / "out", **given)


def test_the_configuration_that_is_written_reads_the_users_files(folders):
    path, lines = write_project(request(folders))
    config = load_config(path)
    assert "4 of 4 images have a label" in lines[0] and "no labels to score with" in lines[1]
    pairs = [(Path(i.image.name).stem, Path(i.label.name).stem) for i in list_items(config.data.source, True).items]
    assert pairs == [(f"{n:03d}_rgb", f"{n:03d}_ids") for n in range(4)]
    assert len(list_items(config.data.target, False).items) == 4
    assert config.data.source.size[0] == 96
    assert config.run.eval_every == 0 and config.data.pixels.order == "rgb"


def test_names_may_have_spaces_and_lists_may_be_given_for_folders(folders):
    (folders / "street").rename(folders / "my street")
    names = "".join(f"{path.name}\n" for path in (folders / "my street").glob("*.jpg"))
    (folders / "my street/all.txt").write_text(f"\ufeff{names}", encoding="utf-8")
    for target in ("my street", "my street/all.txt"):
        path, _ = write_project(replace(request(folders), target=folders / target))
        assert len(list_items(load_config(path).data.target, False).items) == 4
    with pytest.raises(DataError, match="is not a text file"):
        write_project(replace(request(folders), target=folders / "my street/frame0.jpg"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_a_configuration(folders, recipe):
    load_config(write_project(request(folders, recipe=recipe))[0])


def test_the_command_trains_and_reports_without_a_target_label(folders, monkeypatch, capsys):
    words = ["adapt", "--source-images", folders / "game/rgb", "--source-labels", folders / "game/ids", "--target",
             folders / "street", "--classes", folders / "classes.yml", "--output", folders / "out", "--steps", "2",
             "--size", "64x32"]  # fmt: skip
    monkeypatch.setattr("sys.argv", list(map(str, words)))
    assert adapt.main() == 0
    shown = capsys.readouterr().out
    assert "step 2: entropy" in shown and "report:" in shown
    page = (folders / "out/report/index.html").read_text()
    assert "No target label was used" in page and page.count("<img") >= 3 and "ground" in page
    assert adapt.main() == 0  # again: the run is there and finished


def test_init_asks_for_what_is_missing(folders, monkeypatch, capsys):
    answers = iter([str(folders / "game/rgb"), str(folders / "game/ids"), str(folders / "street"), "", ""])
    monkeypatch.setattr(builtins, "input", lambda text: next(answers))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.argv", ["init", "--output", str(folders / "out")])
    with pytest.raises(DataError, match=r"what do the ids 3, 9, 77 of the labels mean\? Name them in .*classes.yml"):
        init.main()
    assert "class_77" in (folders / "out/data/classes.yml").read_text()


def test_a_draft_of_the_classes_that_the_user_completed_is_never_overwritten(folders):
    draft = folders / "out/data/classes.yml"
    draft.parent.mkdir(parents=True)
    draft.write_text("completed by the user")
    with pytest.raises(DataError, match="what do the ids"):
        write_project(request(folders, classes=""))
    assert draft.read_text() == "completed by the user"


def test_images_and_labels_are_paired_by_what_their_names_share():
    images = [Path(f"a/berlin_{n:06d}_leftImg8bit.png") for n in range(3)]
    labels = [Path(f"b/berlin_{n:06d}_gtFine_labelIds.png") for n in (2, 0)]
    found = [(image.name[7:13], label.name[7:13]) for image, label in pairs_of(images, labels)]
    assert found == [("000000", "000000"), ("000002", "000002")]
    twice = [*images, Path("c") / images[0].name]
    for one, other, text in ((twice, labels, "would have one label"), (images, [*labels, *labels], "of one image")):
        with pytest.raises(DataError, match=text):
            pairs_of(one, other)
    with pytest.raises(DataError, match="no image and label have a name in common"):
        pairs_of([Path("a.png"), Path("b.png")], [Path("c.png"), Path("d.png")])


def test_what_is_wrong_is_one_line(folders):
    (folders / "names.yml").write_text("classes: [ground, sky]\n")
    for change, text in (
        ({"recipe": "dacz"}, "unknown 'dacz': did you mean 'dacs'"),
        ({"classes": str(folders / "none.yml")}, "none.yml"),
        ({"classes": str(folders / "names.yml")}, "names.yml' has no list 'classes' of {name, ids, colour}"),
    ):
        with pytest.raises(UserError, match=text):
            write_project(request(folders, **change))
    assert len(class_table("cityscapes", [], folders / "x.yml")) == 19
    width, height = working_size(sorted((folders / "street").glob("*.jpg")), 10**6)
    assert width == 96 and height in (32, 64)  # 48 lies between two multiples of 32
