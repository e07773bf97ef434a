"""The table of training stages. Each is one row; the loop is the same for all."""

from __future__ import annotations

from unfuse.errors import UnfuseError
from unfuse.train import flow, slots, vae
from unfuse.train.loop import Stage

STAGES = {
    "vae": Stage("vae", vae.model, vae.batch, vae.loss, vae.validate),
    "layers": Stage("layers", flow.model, slots.batch, flow.loss, flow.validate, flow.begin),
    "slots": Stage("slots", slots.model, slots.batch, slots.loss, slots.validate),
}


def stage(name: str) -> Stage:
    """The stage of a name. Raises UnfuseError that lists the known ones."""
    if name not in STAGES:
        raise UnfuseError(f"stage {name!r} is unknown: say one of {', '.join(STAGES)}")
    return STAGES[name]
