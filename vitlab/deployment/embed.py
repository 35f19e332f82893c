"""Write the features of a user's pictures, with their names: Parquet or npz, and a page that shows which are near.

N pictures that can be decoded, C the width of the embedding.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from referee.report.templates import templates

from vitlab.atomic_files import write_text, written_whole
from vitlab.data.decoding import as_text
from vitlab.deployment.load import LoadedModel
from vitlab.deployment.predict import SHOWN, Pictures
from vitlab.evaluation.thumbnails import data_uri
from vitlab.models.intermediates import FeatureInfo, FeatureMaps

NEIGHBORS = 6  # of a picture that the page shows
COLORED = 10  # folders; the page shows the pictures of others in gray


class Embedded:
    """Pictures and their features, in the order in which they were given; a folder's by name.

    Attributes:
        embedding: (N, C), what the classifier reads.
        names, broken, root: as in `Pictures`.
        thumbnails: data URIs, of the first `SHOWN`.
        stages: what the maps are that `batches` yields beside.
    """

    def __init__(self, model: LoadedModel, images: Sequence[Path], stages: Sequence[int] | None = None) -> None:
        self.model, self._pictures = model, Pictures(images)
        self.names, self.broken, self.root = self._pictures.names, self._pictures.broken, self._pictures.root
        self._maps: FeatureMaps | None = None if stages is None else model.model.features_only(list(stages) or None)
        self.stages: list[FeatureInfo] = [] if self._maps is None else self._maps.feature_info
        self.thumbnails: list[str] = []
        self._rows: list[np.ndarray] = []

    @property
    def embedding(self) -> Float[np.ndarray, "N C"]:
        return np.concatenate(self._rows)

    @torch.inference_mode()
    def batches(self) -> Iterator[dict[str, Any]]:
        """Yield names, embeddings (B, C) and, by the name of its stage, each map (B, C, H, W) of a few pictures."""
        for names, arrays in self._pictures.read(self.model.transform.picture_mode):
            images = self.model.batch(arrays)
            maps = [] if self._maps is None else self._maps(images)
            outputs = dict(
                zip(
                    ["embedding", *(stage["module"] for stage in self.stages)],
                    [self.model.model.embed(images), *maps],
                    strict=True,
                )
            )
            columns = {name: output.float().cpu().numpy() for name, output in outputs.items()}
            self._rows.append(columns["embedding"])
            self.thumbnails += [data_uri(array[..., :3]) for array in arrays[: SHOWN - len(self.thumbnails)]]
            yield {"file": names, **columns}


def write_table(embedded: Embedded, folder: Path) -> list[Path]:
    """Write `features.parquet`, a row per picture: `file` and `embedding`; of stages, their maps too.

    `maps.npz` has an array (N, C, H, W) for each stage by its name, in the order of the rows, and `features`, the
    stages as JSON. Maps of many pictures are larger than memory, so they wait in temporary files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        waiting: dict[str, tuple[Any, tuple[int, ...]]] = {}
        for columns in embedded.batches():
            for stage in embedded.stages:
                maps = columns[stage["module"]]
                if stage["module"] not in waiting:
                    waiting[stage["module"]] = stack.enter_context(TemporaryFile(dir=folder)), maps.shape[1:]
                maps.tofile(waiting[stage["module"]][0])
        table, files = folder / "features.parquet", [folder / "features.parquet"]
        frame = pd.DataFrame({"file": embedded.names, "embedding": list(embedded.embedding)})
        with written_whole(table) as file:
            frame.to_parquet(file, index=False)
        if waiting:
            arrays: dict[str, Any] = {
                name: np.memmap(raw, np.float32, "r", shape=(len(frame), *shape))
                for name, (raw, shape) in waiting.items()
            }
            files.append(folder / "maps.npz")
            with written_whole(files[-1]) as file:
                np.savez(file, features=np.array(json.dumps(embedded.stages)), **arrays)
    return files


def write_page(embedded: Embedded, model: str, path: Path) -> None:
    """Write a page with a point for each picture, near to those that the model takes for similar."""
    places, axes = projected(embedded.embedding)
    shown = len(embedded.thumbnails)
    low, extent = places.min(axis=0), max(np.ptp(places, axis=0).max(), 1e-12)  # one scale for both axes
    folders = [name.partition("/")[0] if "/" in name else "" for name in embedded.names[:shown]]
    counts = Counter(folders).most_common()
    template = templates(Path(__file__).parent).get_template("map.html.jinja")
    page = template.render(
        model=as_text(model),
        place=as_text(str(embedded.root)),
        total=len(embedded.names),
        features=embedded.embedding.shape[1],
        axes=axes,
        height=1000 * np.ptp(places[:, 1]) / extent,
        points=[(1000 * (x - low[0]) / extent, 1000 * (y - low[1]) / extent) for x, y in places[:shown].tolist()],
        names=embedded.names[:shown],
        thumbnails=embedded.thumbnails,
        near=nearest(embedded.embedding[:shown]),
        folders=counts if len(counts) > 1 else [],
        color=dict(zip([name for name, _ in counts[:COLORED]], range(COLORED), strict=False)),
        folder=folders,
    )
    write_text(path, page)


def nearest(embedding: Float[np.ndarray, "N C"]) -> list[list[int]]:
    """Return for each picture those whose embeddings have the largest cosine with its own, without itself."""
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True).clip(1e-12)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    order: list[list[int]] = np.argsort(-cosine, axis=1, kind="stable")[:, : min(NEIGHBORS, len(unit) - 1)].tolist()
    return order


def projected(embedding: Float[np.ndarray, "N C"]) -> tuple[Float[np.ndarray, "N 2"], list[str]]:
    """Return places in a plane, the first two principal components, and what its two axes are."""
    from sklearn.decomposition import PCA

    pca = PCA(n_components=2, svd_solver="full")
    places = pca.fit_transform(embedding)
    shares = enumerate(pca.explained_variance_ratio_, start=1)
    return places, [f"principal component {i}, {share:.0%} of the variance" for i, share in shares]
