"""Does a training step of the stage `slots` wait for its pictures? Designs a second, of each link of the chain.

    python benchmarks/feed.py --pack PACK [--side 256] [--batch 64] [--remix 8] [--device cuda] [--workers 16]

Drawn: by one process. Remixed: pictures, with weather and hint, on the device. Learned: pictures, by training steps on
the device. A run waits for nothing if workers x drawn x remix and the remixed rate are above the learned one; remixing
shares the device with learning, so that the whole is what comes last.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unfuse.train import slots
from unfuse.train.stage import TrainParams, Want


def a_second(make: Callable[[], Any], pictures: int, device: str, rounds: int) -> float:
    """Pictures a second, the first round left out."""
    make()
    began = time.perf_counter()
    for _ in range(rounds):
        make()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return rounds * pictures / (time.perf_counter() - began)


def main() -> None:
    """Measure and print."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--pack", type=Path, required=True)
    ask.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for name, value in {"side": 256, "batch": 64, "remix": 8, "workers": 16, "rounds": 10}.items():
        ask.add_argument(f"--{name}", type=int, default=value)
    a = ask.parse_args()
    want = Want(a.pack, "train", 0, 0, 0, a.batch // a.remix, a.side)
    drawn = a_second(lambda: slots.designs(want), want.count, "cpu", a.rounds)
    designs = {name: torch.from_numpy(x).to(a.device) for name, x in slots.designs(want).items()}
    rng = np.random.default_rng(0)
    remixed = a_second(lambda: slots.remixed(designs, a.remix, rng), a.batch, a.device, a.rounds)
    net = slots.build(TrainParams(a.pack, Path("unused"))).to(a.device)
    optimizer = torch.optim.AdamW(net.parameters(), fused=a.device.startswith("cuda"))
    seen = slots.remixed(designs, a.remix, rng)

    def step() -> None:
        with torch.autocast(a.device.partition(":")[0], torch.bfloat16):
            loss = slots.loss(net, seen)["loss"]
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()

    learned = a_second(step, a.batch, a.device, a.rounds)
    print(f"{a.side} px, batch {a.batch}, {a.device}, pictures a second")
    print(f"drawn by one process {drawn:.1f}; {a.workers} workers x remix {a.remix}: {drawn * a.workers * a.remix:.0f}")
    print(f"remixed {remixed:.1f}, learned {learned:.1f}, both in turn {1 / (1 / remixed + 1 / learned):.1f}")


if __name__ == "__main__":
    main()
