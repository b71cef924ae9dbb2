#!/usr/bin/env python3
"""Training steps of transformers and of DACS: ours and plain PyTorch's, in turn in one run.

python benchmarks/transformers.py [--cases daformer_b2,daformer_b5,vfm_uda_s,dacs_r101,hrda_b0] [--size 512] [--steps 3]
One process for each way, from the same weights on the same batches: DAFormer's step (student, teacher, feature
distance, mixed), VFM-UDA's (two views of the teacher, mixed, masked tokens), DACS's on ResNet-101 (teacher, mixed) and
HRDA's (the same as DAFormer's on images of twice the size, with detail crops of --size; the teacher sees the detail in
windows), one image of each domain. All ways must report the same losses. Times are medians without the first step,
memory is the process's peak. `cpu s` is processor time, which other programs on the machine change less than the time
that passes, above all with --threads 1.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

from training import AGREE, CHOSEN, HERE, Peer, show

# way -> its script, its name, and what it is told
WAYS = {
    "ours": ("transformers_ours.py", "paddle_adaptseg", ""),
    "plain": ("transformers_ours.py", "the same on Paddle's own operations", "plain"),
    "torch": ("transformers_torch.py", "plain PyTorch", ""),
    "torch_last": ("transformers_torch.py", "plain PyTorch, channels last", "channels_last"),
    "torch_fused": ("transformers_torch.py", "plain PyTorch, its fused attention", "fused_attention"),
}


class Way(Peer):
    """A process that makes one of the steps."""

    def begin(self, case: str, size: int, told: str, threads: int) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(CHOSEN)}
        if threads:
            clean["OMP_NUM_THREADS"] = str(threads)
        command = [
            sys.executable,
            str(HERE / "peers" / self.script),
            f"--case={case}",
            f"--size={size}",
            f"--way={told}",
        ]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean
        )
        self.about = self.read()

    def phases(self) -> dict[str, float]:
        """Median seconds of every phase, without the first step."""
        timed = self.answers[1:] or self.answers
        return {phase: statistics.median(a["seconds"][phase] for a in timed) for phase in timed[0]["seconds"]}

    def cpu(self) -> float:
        return statistics.median(a["cpu"] for a in self.answers[1:] or self.answers)


def measure(case: str, keys: list[str], size: int, steps: int, threads: int) -> list[Way]:
    """Let the ways step in turn; the first step of each warms up."""
    ways = [Way(key, *WAYS[key][:2]) for key in keys]
    for way in ways:
        way.begin(case, size, WAYS[way.key][2], threads)
        print(f"{case} {way.label}: {way.about['name']}", file=sys.stderr)
    for number in range(steps + 1):
        for way in ways:
            way.answers.append(way.ask("step"))
            spent = sum(way.answers[-1]["seconds"].values())
            print(f"{case} step {number}  {way.label}: {spent:.2f} s", file=sys.stderr)
    for way in ways:
        way.stop()
    return ways


def disagreement(ways: list[Way]) -> float:
    """The largest difference of a loss from ours, relative where the loss is above 0.1."""
    pairs = [(a["losses"], b["losses"]) for way in ways[1:] for a, b in zip(ways[0].answers, way.answers)]
    assert all(set(ours) == set(theirs) for ours, theirs in pairs), pairs
    return max((abs(v - theirs[k]) / max(abs(v), 0.1) for ours, theirs in pairs for k, v in ours.items()), default=0.0)


def rows(case: str, ways: list[Way]) -> list[dict[str, str]]:
    """A line for every way, against ours."""
    ours = ways[0]
    return [
        {
            "step": case,
            "way": way.label,
            **{f"{phase} s": f"{seconds:.2f}" for phase, seconds in way.phases().items()},
            "step s": f"{way.step():.2f}",
            "time": f"{way.step() / ours.step():.2f}x",
            "cpu s": f"{way.cpu():.2f}",
            "cpu": f"{way.cpu() / ours.cpu():.2f}x",
            "peak GB": f"{way.peak() / 1e9:.2f}",
            "memory": f"{way.peak() / ours.peak():.2f}x",
        }
        for way in ways
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="daformer_b2,daformer_b5,vfm_uda_s,dacs_r101,hrda_b0")
    parser.add_argument("--size", type=int, default=512, help="side of the images; HRDA's have twice it")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each way")
    parser.add_argument("--threads", type=int, default=0, help="threads of each way; 0: as each chooses")
    parser.add_argument("--ways", default="ours,torch", help=", ".join(WAYS))
    args = parser.parse_args()
    worst = 0.0
    for case in args.cases.split(","):
        ways = measure(case, args.ways.split(","), args.size, args.steps, args.threads)
        differs = disagreement(ways)
        worst = max(worst, differs)
        environment = ways[0].about.get("environment", ways[0].about["name"])
        print(f"\n{case}, {args.size}x{args.size}; {environment}; losses within {differs:.1e}\n")
        print(show(rows(case, ways)), flush=True)
    if worst > AGREE:
        raise SystemExit(f"losses differ by {worst:.1e}: the ways do not compute the same")


if __name__ == "__main__":
    main()
