"""Write the features of a user's pictures with their names, and the maps of a model's stages.

N pictures that can be decoded, C channels.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from vitlab.atomic_files import written_whole
from vitlab.deployment.load import LoadedModel, warn_of_broken
from vitlab.deployment.predict import Pictures


@torch.inference_mode()
def write_features(
    model: LoadedModel, images: Sequence[Path], folder: Path, stages: Sequence[int] | None = None
) -> pd.DataFrame:
    """Write `features.parquet`, a row per picture, `file` and `embedding`; return the table.

    Args:
        stages: also write `maps.npz`: for each of these stages an array (N, C, H, W) by its name, in the order of the
            rows, and `features`, the stages as JSON; empty: of all stages.
    """
    pictures = Pictures(images)
    pyramid = None if stages is None else model.model.features_only(list(stages) or None)
    rows, maps = [], []
    for _, arrays in pictures.read(model.transform.picture_mode):
        batch = model.batch(arrays)
        rows.append(model.model.embed(batch).float().cpu())
        maps.append([found.float().cpu() for found in pyramid(batch)] if pyramid else [])
    warn_of_broken(pictures.broken)
    table = pd.DataFrame({"file": pictures.names, "embedding": list(torch.cat(rows).numpy())})
    with written_whole(folder / "features.parquet") as file:
        table.to_parquet(file, index=False)
    if pyramid is not None:
        names = [stage["module"] for stage in pyramid.feature_info]
        whole: dict[str, Any] = {
            name: torch.cat(parts).numpy() for name, parts in zip(names, zip(*maps, strict=True), strict=True)
        }
        with written_whole(folder / "maps.npz") as file:
            np.savez(file, features=np.array(json.dumps(pyramid.feature_info)), **whole)
    return table
