"""Floor 2: several sets of probes as one. `SpectralMeasure.concatenate` documents it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from slq._coefficients import Coefficients
from slq.errors import RequestError

__all__ = ["union"]

_MENDS = {
    "num_steps": "truncate them to the smallest",
    "shared_by": "the probes of block runs share their spaces by so many, those of others (1) do not",
    "deflated": "join them first, then deflate",
}


def union(parts: Sequence[Coefficients]) -> dict[str, Any]:
    """The fields of the union that are not those of the first part."""
    if not parts:
        raise RequestError("concatenate expects at least one measure, got none")
    for name in ("n", "sampler", "is_complex", "singular", "shared_by", "deflated", "num_steps"):
        values = {getattr(m, name) for m in parts}
        if len(values) > 1:
            raise RequestError(
                f"concatenate met different values of {name}: {sorted(values, key=str)}; "
                f"{_MENDS.get(name, 'they measure different things')}"
            )
    identities = [probe for m in parts for probe in zip(m.seeds, m.probe_ids, strict=True)]
    if parts[0].sampler != "fixed" and len(set(identities)) < len(identities):
        repeated = next(p for p in identities if identities.count(p) > 1)
        raise RequestError(
            f"probe {repeated[1]} of seed {repeated[0]} occurs twice, so the errors would come out too small; "
            "use another rng=, or first_probe= to continue the numbering"
        )
    common = set.intersection(*(set(m.provenance.items()) for m in parts))
    return {
        "alpha": np.concatenate([m.alpha for m in parts]),
        "beta": np.concatenate([m.beta for m in parts]),
        "start": np.concatenate([m.start for m in parts]),
        "seeds": sum((m.seeds for m in parts), ()),
        "probe_ids": sum((m.probe_ids for m in parts), ()),
        "squared_norms": np.concatenate([m.squared_norms for m in parts]),
        "eps": max(m.eps for m in parts),
        "provenance": dict(common),
    }
