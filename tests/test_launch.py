"""Trainings that run at once have a GPU each, or their share of the cores. GPUs are stand-ins: nothing runs on one."""

from __future__ import annotations

import dataclasses
import subprocess

import pytest
from conftest import ROOT

from paddle_adaptseg.config.loading import load_config
from paddle_adaptseg.core import runtime
from paddle_adaptseg.lab import launch
from paddle_adaptseg.lab.launch import Job, places_of, run_jobs


@pytest.fixture
def jobs(tmp_path):
    """Makes jobs whose process only writes down what it was given."""

    def make(count, device="auto"):
        path = str(ROOT / "configs/toy/source_only.yml")
        configs = [load_config(path, [f"run.output={tmp_path / str(n)}", f"run.device={device}"]) for n in range(count)]
        configs = [dataclasses.replace(c, schedule=dataclasses.replace(c.schedule, stop=0)) for c in configs]
        return [Job((), config) for config in configs]

    return make


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many GPUs and four cores."""

    def make(gpus, visible=None):
        monkeypatch.setattr(runtime, "_gpus", lambda: gpus)
        monkeypatch.setattr(launch, "cpu_count", lambda: 4)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return make


def gpus_of(places):
    return [place.get("CUDA_VISIBLE_DEVICES") for place in places]


def test_each_gpu_has_one_training_whatever_the_number_of_cores(machine, jobs):
    machine(2)
    places, note = places_of(jobs(6))
    assert gpus_of(places) == ["0", "1"] and {p["OMP_NUM_THREADS"] for p in places} == {"2"}
    assert note == "2 trainings at once, on GPU 0, 1"
    machine(1)
    assert places_of(jobs(6))[1] == "1 training at once, on GPU 0"


def test_gpus_that_the_user_made_visible_are_the_ones_used(machine, jobs):
    machine(2, "3,5")
    assert gpus_of(places_of(jobs(6))[0]) == ["3", "5"]
    machine(1, "GPU-8932f937")
    assert gpus_of(places_of(jobs(6))[0]) == ["GPU-8932f937"]


def test_more_trainings_than_gpus_are_the_users_wish_and_said(machine, jobs):
    machine(2)
    places, note = places_of(jobs(6), 3)
    assert gpus_of(places) == ["0", "1", "0"] and note.endswith("on GPU 0, 1, 0 (several on one GPU: --parallel)")
    assert len(places_of(jobs(1), 3)[0]) == 1


def test_without_gpus_the_cores_are_shared(machine, jobs):
    machine(0)
    places, note = places_of(jobs(6))
    assert places == [{"OMP_NUM_THREADS": "1"}] * 4 and note == "4 trainings at once, threads of each: 1"
    machine(2)
    assert gpus_of(places_of(jobs(6, "cpu"))[0]) == [None] * 4


def test_a_training_that_names_its_gpu_is_not_sent_elsewhere(machine, jobs):
    machine(2)
    assert gpus_of(places_of(jobs(6, "gpu:1"))[0]) == [None]


def test_processes_are_given_their_gpu_and_it_is_free_for_the_next_when_they_end(machine, jobs, tmp_path, monkeypatch):
    machine(2)
    script = tmp_path / "script.py"
    script.write_text("import os; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['OMP_NUM_THREADS'])\n")
    monkeypatch.setattr(launch, "TRAIN", (str(script),))
    alive, most, real = [], [], subprocess.Popen

    def start(*args, **kwargs):
        process = real(*args, **kwargs)
        alive.append((process, kwargs["env"]["CUDA_VISIBLE_DEVICES"]))
        most.append([gpu for other, gpu in alive if other.poll() is None])
        return process

    monkeypatch.setattr(launch.subprocess, "Popen", start)
    run_jobs(jobs(5))
    assert all(len(set(gpus)) == len(gpus) for gpus in most), "never two on one GPU"
    found = [(tmp_path / str(n) / "console.log").read_text().split() for n in range(5)]
    assert {gpu for gpu, _ in found} == {"0", "1"} and {threads for _, threads in found} == {"2"}
