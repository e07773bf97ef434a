"""The table of training stages. Each is one row; the loop is the same for all."""

from __future__ import annotations

from unfuse.errors import UnfuseError
from unfuse.train import finetune, flow, ink, matte, slots, vae
from unfuse.train.stage import Stage

STAGES = {stage.name: stage for stage in (vae.STAGE, *flow.STAGES, finetune.STAGE, slots.STAGE, ink.STAGE, matte.STAGE)}


def stage(name: str) -> Stage:
    """The stage of a name. Raises UnfuseError that lists the known ones."""
    if name not in STAGES:
        raise UnfuseError(f"stage {name!r} is unknown: say one of {', '.join(STAGES)}")
    return STAGES[name]
