#!/usr/bin/env python3
"""Training speed and memory: our AdaptSegNet step, plain Paddle's as shipped and plain PyTorch's, in one run.

python benchmarks/training.py [--large] [--steps 5] drives one process for each peer and lets them step in turn, so
that whatever else the machine does falls on all alike. All start from the same weights and must report the same losses.
It prints a table and writes it as CSV and as a bar chart. PyTorch is needed for this comparison alone; without it, or
with --peers ours,paddle, it is left out.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
PHASES = ("source", "target", "discriminators", "update")
SIZES = {False: ("640x360", "512x256"), True: ("1280x720", "1024x512")}
CHOSEN = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "MKL_DEBUG_CPU_TYPE", "MALLOC_")  # what a peer may choose for itself
AGREE = 1e-3  # how far losses may differ


@dataclass
class Peer:
    """A process that trains, and what it answered."""

    key: str
    script: str
    label: str
    about: dict = field(default_factory=dict)
    answers: list[dict] = field(default_factory=list)
    gflops: float = 0.0

    def start(self, source: str, target: str) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(CHOSEN)}
        command = [sys.executable, str(HERE / "peers" / self.script), "--source", source, "--target", target]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean
        )
        self.about = self.read()

    def ask(self, line: str) -> dict:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.read()

    def read(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.label} failed:\n{self.process.stderr.read()[-2000:]}")
        return json.loads(line)

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def seconds(self) -> dict[str, float]:
        """Median seconds of every phase, without the first step."""
        timed = self.answers[1:] or self.answers
        return {phase: statistics.median(a["seconds"][phase] for a in timed) for phase in PHASES}

    def step(self) -> float:
        """Median seconds of a whole step, without the first."""
        return statistics.median(sum(a["seconds"].values()) for a in self.answers[1:] or self.answers)

    def peak(self) -> int:
        return self.answers[-1]["peak"]


PEERS = {
    "ours": ("ours.py", "paddle_adaptseg"),
    "torch": ("torch_plain.py", "plain PyTorch"),
    "paddle": ("paddle_plain.py", "plain Paddle, as shipped"),
}


def measure(peers: list[Peer], source: str, target: str, steps: int, slow_steps: int) -> None:
    """Let the peers step in turn; the first step of each warms up. The slow one stops after `slow_steps`."""
    for peer in peers:
        peer.start(source, target)
        print(f"{peer.label}: {peer.about['name']}", file=sys.stderr)
    for number in range(steps + 1):
        for peer in peers:
            if peer.key == "paddle" and number > slow_steps:
                continue
            peer.answers.append(peer.ask("step"))
            spent = sum(peer.answers[-1]["seconds"].values())
            print(f"step {number}  {peer.label}: {spent:.2f} s", file=sys.stderr)
    for peer in peers:
        peer.gflops = peer.ask("limit")["gflops"]
        peer.stop()


def disagreement(peers: list[Peer]) -> float:
    """The largest relative difference of a loss from ours."""
    worst = 0.0
    for peer in peers[1:]:
        for ours, theirs in zip(peers[0].answers, peer.answers):
            assert set(ours["losses"]) == set(theirs["losses"]), (ours["losses"], theirs["losses"])
            for name, value in ours["losses"].items():
                worst = max(worst, abs(value - theirs["losses"][name]) / abs(value))
    return worst


def rows(peers: list[Peer], gflop: float) -> list[dict[str, str]]:
    """The table: a line for every peer, against ours."""
    best, ours = max(p.gflops for p in peers), peers[0]
    table = []
    for peer in peers:
        seconds, total = peer.seconds(), peer.step()
        rate = gflop / total
        table.append(
            {
                "peer": peer.label,
                **{f"{phase} s": f"{seconds[phase]:.2f}" for phase in PHASES},
                "step s": f"{total:.2f}",
                "time": f"{total / ours.step():.2f}x",
                "peak GB": f"{peer.peak() / 1e9:.2f}",
                "memory": f"{peer.peak() / ours.peak():.2f}x",
                "GFLOP/s": f"{rate:.0f}" if gflop else "-",
                "of the limit": f"{100 * rate / best:.0f} %" if gflop else "-",
            }
        )
    return table


def show(table: list[dict[str, str]]) -> str:
    lines = [list(table[0]), ["---"] * len(table[0]), *(list(row.values()) for row in table)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw(peers: list[Peer], title: str, path: Path) -> None:
    """Bars: seconds of a step, split into phases, and peak memory."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 1.2 + 0.6 * len(peers)), width_ratios=(3, 2))
    names = [p.label for p in peers][::-1]
    start = [0.0] * len(peers)
    for phase in PHASES:
        widths = [p.seconds()[phase] for p in peers][::-1]
        left.barh(names, widths, left=start, label=phase)
        start = [a + b for a, b in zip(start, widths)]
    left.set_xlabel("seconds per step (medians)")
    left.legend(fontsize=8)
    right.barh(names, [p.peak() / 1e9 for p in peers][::-1], color="tab:gray")
    right.set_yticklabels([])
    right.set_xlabel("peak memory of the process, GB")
    figure.suptitle(title, fontsize=9)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def summary(peers: list[Peer], note: str) -> str:
    """All of it in a line, to be pasted into a message."""
    ours = peers[0]
    found = [f"{ours.label} {ours.step():.2f} s a step, {ours.peak() / 1e9:.2f} GB"]
    for peer in peers[1:]:
        time, memory = peer.step() / ours.step(), peer.peak() / ours.peak()
        found.append(f"{peer.label} {time:.2f}x the time, {memory:.2f}x the memory")
    return f"make bench: {'; '.join(found)} ({note})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="the papers' sizes: 1280x720 and 1024x512")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each peer")
    parser.add_argument("--slow-steps", type=int, default=2, help="timed steps of plain Paddle")
    parser.add_argument("--peers", default="ours,torch,paddle")
    parser.add_argument("--output", type=Path, default=HERE.parent / "docs/images/training_speed", help="no ending")
    args = parser.parse_args()
    keys = [k for k in args.peers.split(",") if k != "torch" or importlib.util.find_spec("torch")]
    peers = [Peer(key, *PEERS[key]) for key in keys]
    source, target = SIZES[args.large]
    measure(peers, source, target, args.steps, args.slow_steps)
    gflop = next((p.about["gflop"] for p in peers if "gflop" in p.about), 0.0)
    table, worst = rows(peers, gflop), disagreement(peers)
    note = f"source {source}, target {target}; {peers[0].about.get('environment', '')}; losses within {worst:.1e}"
    best = max(p.gflops for p in peers)
    print(f"{note}; {gflop:.0f} GFLOP a step, limit {best:.0f} GFLOP/s\n\n{show(table)}")
    print(f"\nto paste: {summary(peers, note)}")
    path = args.output.with_name(args.output.name + ("_large" if args.large else ""))
    draw(peers, f"AdaptSegNet, multi level, ResNet-101, source {source}, target {target}", path.with_suffix(".png"))
    with path.with_suffix(".csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    if worst > AGREE:
        raise SystemExit(f"losses differ by {worst:.1e}: the peers do not compute the same")


if __name__ == "__main__":
    main()
