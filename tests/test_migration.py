"""Every command on docs/migration.md that is ours is parsed, built and planned; those that evaluate, evaluate."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pages
import pytest
from conftest import ROOT, draw_no_weights, tiny_overrides
from pages import ABSENT, SHRINK

from paddle_adaptseg.config.loading import load_config
from paddle_adaptseg.core.errors import UserError
from paddle_adaptseg.lab import sweep
from paddle_adaptseg.training.run import fit

PAGE = (ROOT / "docs/migration.md").read_text(encoding="utf-8")
OURS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S) for line in block.splitlines()]
TRAINING = [line for line in OURS if line.startswith("python tools/train.py")]

# What each original's parser (ADVENT: its configuration) knows; what several share is listed where it comes first.
FLAGS = {
    "AdaptSegNet": """--model --target --batch-size --iter-size --num-workers --data-dir --data-list --ignore-label
        --input-size --data-dir-target --data-list-target --input-size-target --is-training --learning-rate
        --learning-rate-D --lambda-seg --lambda-adv-target1 --lambda-adv-target2 --momentum --not-restore-last
        --num-classes --num-steps --num-steps-stop --power --random-mirror --random-scale --random-seed --restore-from
        --save-num-images --save-pred-every --snapshot-dir --weight-decay --gpu --set --gan --cpu --tensorboard
        --log-dir --save""",
    "Its Paddle port (AdaptSegNet-Paddle)": "--checkpoint-dir --continue-train --start-iter",
    "ADVENT": """--cfg --random-train --tensorboard --viz_every_iter --exp-suffix SOURCE TARGET NUM_WORKERS
        DATA_LIST_SOURCE DATA_LIST_TARGET DATA_DIRECTORY_SOURCE DATA_DIRECTORY_TARGET NUM_CLASSES EXP_NAME EXP_ROOT
        GPU_ID SET_SOURCE SET_TARGET INPUT_SIZE_SOURCE INPUT_SIZE_TARGET MULTI_LEVEL RESTORE_FROM LEARNING_RATE
        MOMENTUM WEIGHT_DECAY POWER LAMBDA_SEG_MAIN LAMBDA_SEG_AUX DA_METHOD LEARNING_RATE_D LAMBDA_ADV_MAIN
        LAMBDA_ADV_AUX LAMBDA_ENT_MAIN LAMBDA_ENT_AUX MAX_ITERS EARLY_STOP SAVE_PRED_EVERY SNAPSHOT_DIR RANDOM_SEED
        TENSORBOARD_LOGDIR TENSORBOARD_VIZRATE TEST.MODE MODEL_WEIGHT SNAPSHOT_STEP SNAPSHOT_MAXITER
        OUTPUT_SIZE_TARGET WAIT_MODEL""",
    "CLAN and CLAN-paddle": "--source --input-size-source Lambda_weight Lambda_adv Lambda_local Epsilon PREHEAT_STEPS",
    "Adversarial_DA_Exp": """--data_root_path --list_path --checkpoint_dir --backbone --bn_momentum
        --imagenet_pretrained --pretrained_ckpt_file --continue_training --show_num_images --seed --gpu
        --batch_size_per_gpu --dataset --base_size --crop_size --target_base_size --target_crop_size --num_classes
        --data_loader_workers --pin_memory --split --random_mirror --random_crop --resize --gaussian_blur
        --numpy_transform --freeze_bn --optim --momentum --weight_decay --lr --iter_max --iter_stop --poly_power --multi
        --lambda_seg --source_dataset --source_split --init_round --round_num --epoch_each_round --epoch_num
        --target_mode --lambda_target --gamma --IW_ratio --threshold --lambda-adv-target1 --lambda-adv-target2
        --learning-rate-D --city_name --flip --image_summary""",
}


@pytest.mark.parametrize("original", FLAGS)
def test_every_flag_of_an_original_is_mapped(original):
    section = PAGE.split(f"\n## {original}\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    known = re.findall(r"`([^` ]+)`", " ".join(rows) if original != "CLAN and CLAN-paddle" else section)
    assert set(FLAGS[original].split()) <= set(known), set(FLAGS[original].split()) - set(known)


def test_every_command_of_theirs_has_one_of_ours_beside_it():
    kinds = re.findall(r"^```(text|sh)\n", PAGE, re.M)
    assert kinds.count("text") > 30 and "text text" not in " ".join(kinds) and kinds[-1] == "sh"


@pytest.fixture
def elsewhere(toy_root, tmp_path, monkeypatch):
    """A folder with the configurations and the toy pair where GTA5 and Cityscapes belong, and nothing else."""
    (tmp_path / "dataset").mkdir()
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for name in ("GTA5", "Cityscapes"):
        (tmp_path / "dataset" / name).symlink_to(toy_root / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(monkeypatch, line, *more):
    """Run a line of the page in this process, with more overrides."""
    python, tool, *arguments = shlex.split(line)
    assert python == "python"
    return pages.call(monkeypatch, Path(tool).stem, arguments, *more)


@pytest.mark.parametrize("line", TRAINING, ids=lambda line: line.split()[3])
def test_our_training_commands_plan_what_they_say(line, elsewhere, monkeypatch, capsys):
    pages.leave_memory_uncounted(monkeypatch)
    draw_no_weights(monkeypatch)
    shallow = () if "vgg" in line else ("model.depths=[1,1,1,1]",)
    planned = line.replace(" -o ", " --dry-run -o ") if " -o " in line else f"{line} --dry-run"
    code = call(monkeypatch, planned, *shallow)
    out = capsys.readouterr().out
    problems = [text for text in out.splitlines() if text.startswith("PROBLEM ")]
    assert code == bool(problems)
    assert all(any(words in text for words in ABSENT) for text in problems), problems
    assert "steps: " in out and "method: " in out
    assert ("source: 6 images of GTA5" in out) == ("configs/gta5" in line)
    assert not (elsewhere / "checkpoint").exists() and not (elsewhere / "snapshots").exists()


def test_our_sweep_covers_its_grid(elsewhere, monkeypatch, capsys):
    asked = []

    def stop(trials, parallel):
        asked.extend(trials)
        raise UserError("far enough")

    monkeypatch.setattr(sweep, "run_sweep", stop)
    (line,) = [line for line in OURS if "tools/sweep.py" in line]
    with pytest.raises(UserError, match="far enough"):
        call(monkeypatch, line)
    assert len(asked) == 9 and {t.job.config.method.params["weights"]["main"] for t in asked} == {0.0005, 0.001, 0.002}


def test_our_evaluations_evaluate(elsewhere, toy_root, monkeypatch, capsys):
    """In the page's order, on untrained shallow networks: what is saved by one line is scored by a later one."""
    run = elsewhere / "made"
    fit(load_config(ROOT / "configs/toy/source_only.yml", [*tiny_overrides(toy_root, run), "schedule.stop=1"]))
    scored = 0
    for line in [line for line in OURS if "tools/eval.py" in line or "tools/compute_iou.py" in line]:
        words = shlex.split(line)
        if "--restore-from" in words:
            paths = words[words.index("--restore-from") + 1 :]
            for path in paths[: next((i for i, word in enumerate(paths) if word.startswith("-")), len(paths))]:
                pages.prepare(Path(path), line, run)
        own = (*pages.config_of(words), *SHRINK) if "--config" in words else ()
        try:
            with monkeypatch.context() as patch:
                draw_no_weights(patch)  # they are read
                assert call(patch, line.replace("eval.py", "eval.py --backend eager"), *own) == 0
            scored += "mIoU:" in capsys.readouterr().out
        except UserError as error:
            assert "crosscity" in line and "'dataset/NTHU_Datasets' does not exist" in str(error), line
    assert scored > 20
