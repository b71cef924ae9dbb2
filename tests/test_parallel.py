"""Several processes compute what one does, and fail and stop together. Paddle's launcher starts them, as users do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from conftest import LIMIT, ROOT, tiny_overrides, wait_until
from test_resume import ELSEWHERE, EXPERIMENTS

from paddle_adaptseg.config.loading import load_config
from paddle_adaptseg.core.labels import IGNORE
from paddle_adaptseg.data import TrainData
from paddle_adaptseg.evaluation import Request, evaluate_request
from paddle_adaptseg.evaluation.checkpoints import DomainEvaluator
from paddle_adaptseg.evaluation.measure import evaluate
from paddle_adaptseg.evaluation.predictor import InferenceOptions
from paddle_adaptseg.methods import METHODS
from paddle_adaptseg.training.allreduce import batch_norms, synchronise_norms
from paddle_adaptseg.training.checkpoint import list_steps, load_state, state_path
from paddle_adaptseg.training.run import fit
from paddle_adaptseg.weights.load import load_model

pytestmark = [
    pytest.mark.skipif(not paddle.distributed.is_available(), reason="this Paddle has no paddle.distributed"),
    pytest.mark.skipif(paddle.device.is_compiled_with_cuda(), reason="its launcher wants GPUs: test_gpu.py has two"),
]
STEPS = 3
CLOSE = 1e-5
LOW = "method.pseudo_labels.threshold=0.1"  # so that the share of sure pixels is neither 0 nor 1
NEAR = "method.feature_distance={things: [road, sky], min_ratio: 0.2}"
# Variants of methods whose terms are means over different things; every method but bn_adapt is in one (asserted below).
COMPARED = {
    **{name: (config, []) for name, config in EXPERIMENTS.items() if name != "bn_adapt"},
    "self_training": ("toy/self_training", [LOW]),
    "hard": ("toy/minent", ["method.target_loss=hard", "method.options={threshold: 0.1}"]),
    "parts": ("toy/adaptsegnet_single_ls", ["schedule.iter_size=2"]),
    "masked": ("toy/self_training_masked", ["schedule.iter_size=2", LOW, "method.masked.teacher={decay: 0.5}", NEAR]),
    "first pair": ("toy/self_training_masked", [LOW, "method.masked.images=one_of_each"]),
}


def settings(root: Path, output: Path, batch: int, *more: str) -> list[str]:
    return [*tiny_overrides(root, output), f"data.batch_size={batch}", "schedule.horizon=6", f"schedule.stop={STEPS}",
            "run.save_every=1", "run.eval_every=3", "run.keep=9", "data.augment.scale=[0.5, 1.0]", *more]  # fmt: skip


def early(name: str) -> list[str]:
    return ["model.norm=group", *([] if name == "source_only" else ["method.ramp.start=0"])]


def launch(folder: Path, *arguments: object, processes: int = 2, node: tuple[str, ...] = (), **options):
    """Paddle's launcher on a script, as a process that is running."""
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", processes, *node]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    if not environment.get("CUDA_VISIBLE_DEVICES"):  # conftest.py's; the launcher would take it for a single device
        environment.pop("CUDA_VISIBLE_DEVICES", None)
    return subprocess.Popen(
        [*map(str, command), "--log_dir", str(folder), *map(str, arguments)], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options,
    )  # fmt: skip


def run_tasks(folder: Path, tasks: list, processes: int = 2) -> list[list[str]]:
    """What each process said to each task."""
    (folder / "tasks.json").write_text(json.dumps(tasks))
    text, _ = launch(folder / "log", ROOT / "tests/parallel_driver.py", folder / "tasks.json", processes=processes
                     ).communicate(timeout=LIMIT)  # fmt: skip
    said = [folder / f"{n}.{r}" for n in range(len(tasks)) for r in range(processes)]
    assert all(path.is_file() for path in said), text
    return [[(folder / f"{n}.{r}").read_text() for r in range(processes)] for n in range(len(tasks))]


@pytest.fixture(scope="module")
def scored(toy_root, tmp_path_factory) -> Path:
    """A run whose weights are evaluated."""
    folder = tmp_path_factory.mktemp("scored") / "run"
    fit(load_config(ROOT / "configs/toy/source_only.yml", settings(toy_root, folder, 2, "schedule.stop=1")))
    return folder


@pytest.fixture(scope="module")
def together(toy_root, scored, tmp_path_factory) -> dict[str, list[str]]:
    """All that two processes do, in one launch, for starting them takes longer than their work."""
    folder = tmp_path_factory.mktemp("two")
    tasks = {"exchange": ["exchange", {}]}
    for name, (config, more) in {**COMPARED, "bn_adapt": ("toy/bn_adapt", [])}.items():
        norm = early(name) if name in COMPARED else []
        overrides = settings(toy_root, folder / name, 1, *more, *norm)
        tasks[name] = ["train", {"config": f"{ROOT}/configs/{config}.yml", "overrides": overrides}]
    for fault, more in {"not finite": [], "skipped": ["run.on_nonfinite=skip"], "image": [], "bug": [], "terminate": [],
                        "evaluating": [], "quarantine": ["data.quarantine=2"]}.items():  # fmt: skip
        overrides = settings(toy_root, folder / fault, 1, *more, *early("source_only"))
        planted = {"skipped": "not finite", "quarantine": "image"}.get(fault, fault)
        options = {"config": f"{ROOT}/configs/toy/source_only.yml", "overrides": overrides, "fault": planted}
        tasks[fault] = ["train", options]
    for name in ("self_training", "clan"):
        config, more = COMPARED[name]
        seldom = ("run.save_every=9", "run.eval_every=0", "data.quarantine=2", "run.log_every=1")
        overrides = settings(toy_root, folder / f"counted_{name}", 1, *more, *early(name), *seldom)
        options = {"config": f"{ROOT}/configs/{config}.yml", "overrides": overrides}
        tasks[f"counted_{name}"] = ["train_counted", options]
    overrides = settings(toy_root, folder / "elsewhere", 1, *early("source_only"))
    (folder / "other").mkdir()
    for part in ("images", "labels"):
        shutil.copytree(toy_root / "GTA5" / part, folder / "other" / part)
        (folder / "other" / part / "00004.png").rename(folder / "other" / part / "00009.png")
    options = {"config": f"{ROOT}/configs/toy/source_only.yml", "overrides": overrides, "root": str(folder / "other")}
    tasks["elsewhere"] = ["train_elsewhere", options]
    weights, keep = str(scored / "weights/step_00000001.pdparams"), str(folder / "scored.npz")
    tasks["score"] = ["score", {"weights": weights, "overrides": [], "keep": keep}]
    shutil.copytree(scored, folder / "run")
    shutil.copytree(toy_root / "Cityscapes/leftImg8bit/val", folder / "pictures")
    (folder / "pictures/broken.png").write_bytes(b"no picture")
    tasks["bulk"] = ["bulk", {"run": str(folder / "run"), "report": str(folder / "report")}]
    inputs = {"inputs": str(folder / "pictures"), "output": str(folder / "labels")}
    tasks["predict"] = ["predict", {"weights": weights, **inputs}]
    said = run_tasks(folder, list(tasks.values()))
    return {"folder": folder, **dict(zip(tasks, said))}


def test_processes_that_find_different_files_all_end_with_the_same_error(together):
    expected = (
        "DataError: the source differs between the processes (6 images in process 0, 6 in process 1; "
        "names and order are compared): put the same files below data.source.root on every machine"
    )
    assert together["elsewhere"] == [expected, expected]
    assert not (together["folder"] / "elsewhere/states").exists()


def test_every_method_is_compared_here():
    assert {*COMPARED, "bn_adapt", *ELSEWHERE} >= set(METHODS), "ELSEWHERE: test_practice_parallel.py"


def test_the_common_batch_is_dealt_out_position_by_position(tiny):
    whole = list(TrainData(tiny("toy/maxsquare", "data.batch_size=4"), True).batches(2))
    parts = [list(TrainData(tiny("toy/maxsquare", "data.batch_size=2"), True, r, 2).batches(2)) for r in range(2)]
    for batch, *mine in zip(whole, *parts):
        for r, part in enumerate(mine):
            assert part.files == batch.files
            for name in ("source_image", "source_label", "target_image"):
                np.testing.assert_array_equal(getattr(part, name).numpy(), getattr(batch, name).numpy()[r::2])


def test_processes_exchange_numbers_texts_and_tensors_and_find_differences(together):
    assert all("weights differ between the processes" in said for said in together["exchange"])


@pytest.mark.parametrize("name", COMPARED)
def test_two_processes_with_one_image_equal_one_process_with_two(together, toy_root, tmp_path, name):
    assert together[name] == [str(STEPS)] * 2
    config, more = COMPARED[name]
    alone = load_config(ROOT / f"configs/{config}.yml", settings(toy_root, tmp_path / "run", 2, *more, *early(name)))
    labels = [batch.source_label.numpy() for batch in TrainData(alone, False).batches(0)]
    assert any((one != IGNORE).sum() != (other != IGNORE).sum() for one, other in labels)  # padded
    fit(alone)
    for step in range(1, STEPS + 1):
        one = load_state(state_path(tmp_path / "run", step)).arrays
        two = load_state(state_path(together["folder"] / name, step)).arrays
        assert one.keys() == two.keys()
        for key, array in one.items():
            np.testing.assert_allclose(two[key], array, rtol=0, atol=CLOSE, err_msg=f"step {step}: {key}")
    losses = [
        json.loads((f / "log.jsonl").read_text().splitlines()[0]) for f in (tmp_path / "run", together["folder"] / name)
    ]
    for key in (key for key in losses[0] if key.startswith("loss/")):
        assert losses[1][key] == pytest.approx(losses[0][key], abs=1e-5), key


@pytest.mark.parametrize("name", ["self_training", "clan"])
def test_a_step_waits_once_for_an_answer_of_all_processes(together, name):
    assert together[f"counted_{name}"] == [str([1] * (STEPS - 1))] * 2


def test_batch_statistics_are_of_each_process_and_their_averages_are_the_same_everywhere(together):
    assert together["bn_adapt"] == [str(STEPS)] * 2  # the run compares all processes' weights at each checkpoint


def test_a_shared_evaluation_equals_one_of_one_process_to_the_last_count(together, scored):
    assert together["score"] == ["3", "3"]  # an odd number of images
    weights = scored / "weights/step_00000001.pdparams"
    model, config = load_model(weights)
    alone, found = (
        DomainEvaluator(config, "target", InferenceOptions()).measure(model),
        np.load(together["folder"] / "scored.npz"),
    )
    np.testing.assert_array_equal(found["counts"], evaluate(weights)[0].counts)
    assert found["stems"].tolist() == list(alone.stems)
    for name in ("matrices", "boundary", "reliability", "coarse", "entropy"):
        np.testing.assert_array_equal(found[name], getattr(alone, name), err_msg=name)


def test_every_checkpoint_of_a_run_is_measured_once_by_all_and_told_by_the_first(together, scored, tmp_path):
    first, second = together["bulk"]
    assert "(measured before)" in first and "report: " in first and second == ""
    shutil.copytree(scored, tmp_path / "run")
    evaluate_request(Request((str(tmp_path / "run"),)), lambda _: None)
    folders = (tmp_path / "run", together["folder"] / "run")
    tables = [next(folder.glob("evaluation/target-*/*.csv")) for folder in folders]
    assert tables[0].read_text() == tables[1].read_text()
    assert list((together["folder"] / "report").glob("*.html"))


def test_the_images_of_a_folder_are_shared_and_what_failed_is_told_by_all(together):
    (said,) = set(together["predict"])
    assert said.startswith("3 [") and "broken.png" in said
    assert len(list((together["folder"] / "labels").rglob("*.png"))) == 3


def test_only_layers_with_batch_statistics_are_synchronised_and_keep_their_names(tiny):
    from paddle_adaptseg.models import build_model

    config = tiny("toy/source_only_bn")
    model = build_model(config.model, 19)
    before = {name: value.numpy() for name, value in model.state_dict().items()}
    count = len(batch_norms(model))
    assert count and synchronise_norms(model) == count == len(batch_norms(model))
    assert all(isinstance(norm, paddle.nn.SyncBatchNorm) for norm in batch_norms(model))
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])


@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [
        ("not finite", "NotFinite", "step 2: seg_main = nan"),
        ("image", "DataError", "image '7.png' is cut short"),
        ("bug", "TrainingError", "KeyError: 'wrong'"),
    ],
)
def test_an_error_of_one_process_ends_all_with_its_message(together, fault, kind, text):
    first, second = together[fault]
    assert first.startswith(kind) and text in first
    assert text in second  # as it was raised there
    command = "continue with: python -m paddle.distributed.launch --nproc_per_node 2 tools/train.py"
    assert command in first
    assert not (together["folder"] / fault / "lock.json").exists()


def test_a_step_that_is_not_finite_in_one_process_is_taken_back_in_all(together):
    assert together["skipped"] == [str(STEPS)] * 2  # each checkpoint compares the weights of all
    assert load_state(state_path(together["folder"] / "skipped", STEPS)).record["skipped"] == 1


def test_a_file_that_one_process_passes_over_is_in_the_state_of_all(together):
    assert together["quarantine"] == [str(STEPS)] * 2
    (entry,) = load_state(state_path(together["folder"] / "quarantine", STEPS)).record["quarantined"].values()
    assert "7.png" in entry


@pytest.mark.parametrize(("fault", "step"), [("terminate", 3), ("evaluating", 3)])
def test_a_signal_to_one_process_stops_all_at_one_step(together, fault, step):
    assert all("terminated (SIGTERM)" in said for said in together[fault]), together[fault]
    assert len(set(together[fault])) == 1


@pytest.mark.parametrize(("batch", "text"), [(1, "the global batch is now 1 instead of 2"), (2, "stays 2")])
def test_a_run_continues_with_another_number_of_processes_and_says_what_changes(
    together, toy_root, tmp_path, capsys, batch, text
):
    shutil.copytree(together["folder"] / "output_adversarial", tmp_path / "run")
    for step in (2, 3):  # as if it had been killed after the first step
        state_path(tmp_path / "run", step).unlink()
    config, more = COMPARED["output_adversarial"]
    overrides = settings(toy_root, tmp_path / "run", batch, *more, *early("output_adversarial"))
    fit(load_config(ROOT / f"configs/{config}.yml", overrides), resume="latest", accept_changes=True)
    said = capsys.readouterr().out
    assert "continuing with 1 process instead of 2: " in said and text in said
    if batch == 2:
        one = load_state(state_path(tmp_path / "run", STEPS)).arrays
        for key, array in load_state(state_path(together["folder"] / "output_adversarial", STEPS)).arrays.items():
            np.testing.assert_allclose(one[key], array, rtol=0, atol=CLOSE, err_msg=key)


TRAIN = ROOT / "tools/train.py"
LONG = ("schedule.horizon=900", "schedule.stop=900", "run.save_every=2", "run.eval_every=0")


def long_run(root: Path, output: Path, *more: str, batch: int = 1) -> list[str]:
    """Overrides of a run that is broken off."""
    return settings(root, output, batch, *early("source_only"), *LONG, *more)


def arguments(overrides: list[str]) -> list[str]:
    return [str(TRAIN), "--config", f"{ROOT}/configs/toy/source_only.yml", "-o", *overrides]


def test_killing_a_process_of_another_machine_ends_all_and_a_new_launch_continues_exactly(toy_root, tmp_path):
    run, port = tmp_path / "run", free_port()
    launchers = [
        launch(tmp_path / f"node{n}", *arguments(long_run(toy_root, run)), processes=1,
               node=("--nnodes", "2", "--master", f"127.0.0.1:{port}", "--rank", str(n)))
        for n in range(2)
    ]  # fmt: skip
    wait_for(run / "log.jsonl", '"step": 5')
    os.kill(process_of(launchers[1]), signal.SIGKILL)
    text = [launcher.communicate(timeout=LIMIT)[0] for launcher in launchers][0]
    assert all(launcher.returncode for launcher in launchers)
    assert "process 0 of 2 lost the others" in text and "the last good checkpoint is" in text
    stop = list_steps(run)[-1] + 2
    more = [f"schedule.stop={stop}", "--continue-train"]
    again = launch(tmp_path / "again", *arguments(long_run(toy_root, run, *more)))
    text, _ = again.communicate(timeout=LIMIT)
    assert again.returncode == 0 and "2 processes x 1 image = global batch 2; rates unchanged (0.02)" in text, text
    assert not (run / "lock.json").exists() and list_steps(run)[-1] == stop
    alone = long_run(toy_root, tmp_path / "alone", f"schedule.stop={stop}", batch=2)
    fit(load_config(ROOT / "configs/toy/source_only.yml", alone))
    one, two = (load_state(state_path(folder, stop)).arrays for folder in (tmp_path / "alone", run))
    for key, array in one.items():
        np.testing.assert_allclose(two[key], array, rtol=0, atol=CLOSE, err_msg=key)
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, stop + 1))  # no gap, and no step twice


def test_a_process_that_hangs_ends_all_when_the_time_is_up(toy_root, tmp_path):
    running = launch(tmp_path / "log", *arguments(long_run(toy_root, tmp_path / "run", "run.timeout=15")))
    wait_for(tmp_path / "run/log.jsonl", '"step": 3')
    os.kill(process_of(running, 1), signal.SIGSTOP)
    text, _ = running.communicate(timeout=LIMIT)
    assert running.returncode and "process 0 of 2 waited 15 s for the others (run.timeout)" in text
    assert list_steps(tmp_path / "run")[-1] >= 2


@pytest.mark.slow
@pytest.mark.parametrize("processes", [3, 4])
def test_an_evaluation_is_shared_by_more_processes_than_there_are_images(scored, tmp_path, processes):
    weights = scored / "weights/step_00000001.pdparams"
    task = ["score", {"weights": str(weights), "overrides": [], "keep": str(tmp_path / "scored.npz")}]
    assert run_tasks(tmp_path, [["exchange", {}], task], processes)[1] == ["3"] * processes
    np.testing.assert_array_equal(np.load(tmp_path / "scored.npz")["counts"], evaluate(weights)[0].counts)


def wait_for(path: Path, text: str) -> None:
    wait_until(lambda: path.is_file() and text in path.read_text(), f"'{text}' in {path}")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def process_of(launcher: subprocess.Popen, number: int = 0) -> int:
    """A training process that a launcher has started."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    found = [int(pid) for pid in children if b"train.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return sorted(found)[number]
