"""Means over designs, with how sure one can be of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95


def bootstrap(values: NDArray[np.float64], resamples: int, seed: int) -> tuple[Any, Any]:
    """The percentile interval, 95 %, of the mean over the first axis (Efron 1979). values: `design` or `design level`.

    Same seed and count, same draws: intervals of two methods over the same designs rest on the same resamples.
    """
    drawn = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    means = np.stack([values[some].mean(axis=0) for some in drawn])
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low.tolist(), high.tolist()


def interval(values: Sequence[Any], resamples: int, seed: int) -> dict[str, Any] | None:
    """Mean, interval and count of what there is; None where there is nothing. A value may be a list, one a level."""
    found = np.array([value for value in values if value is not None], np.float64)
    if not len(found):
        return None
    low, high = bootstrap(found, resamples, seed)
    return {"mean": found.mean(axis=0).tolist(), "low": low, "high": high, "count": len(found)}


def summarise(rows: Sequence[dict[str, Any]], resamples: int, seed: int) -> dict[str, Any]:
    """By method and measure the mean over designs with its interval; the recomposition's maximum is the largest."""
    summary: dict[str, Any] = {}
    for method in rows[0]["methods"]:
        mine = [row["methods"][method] for row in rows]
        names = [name for name in mine[0] if name not in ("failed", "skipped", "layers")]
        summary[method] = {name: interval([row[name] for row in mine], resamples, seed) for name in names}
        if "failed" not in mine[0]:
            continue
        summary[method] |= {"failures": sum(row["failed"] for row in mine), "skipped": sum(x["skipped"] for x in mine)}
        summary[method]["layers"] = interval([row["layers"] for row in mine], resamples, seed)
        largest = [row["recomposition_max"] for row in mine if row["recomposition_max"] is not None]
        summary[method]["recomposition_max"] = max(largest, default=None)
    return summary
