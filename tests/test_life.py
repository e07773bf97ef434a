"""The whole life of a model, as one script: from ten parts to a picture taken apart by what was trained on them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

SCRIPT = Path(__file__).parents[1] / "examples" / "life.py"


def test_a_whole_life(tmp_path: Path) -> None:
    quiet = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "life")], env=quiet, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1].endswith("index.html")
    for name in ("report/index.html", "vae-report/index.html", "mine/layers.json", "runs/image-to-layers/sheets"):
        assert (tmp_path / "life" / name).exists()
