"""Write the features of a user's pictures, with their names: Parquet or npz, and a page that shows which are near.

N pictures that can be decoded, C the width of the embedding.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import jinja2
import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
import torch
from jaxtyping import Float

from vitlab.atomic_files import write_text, written_whole
from vitlab.data.decoding import as_text
from vitlab.deployment.load import LoadedModel
from vitlab.deployment.predict import SHOWN, Pictures, in_8_bits
from vitlab.evaluation.thumbnails import data_uri
from vitlab.models.intermediates import FeatureInfo, FeatureMaps

Projection = Literal["pca", "umap"]

ROW_GROUP = 64 * 2**20  # bytes of maps that are held before they are written
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
            self.thumbnails += [data_uri(in_8_bits(array)) for array in arrays[: SHOWN - len(self.thumbnails)]]
            yield {"file": names, **columns}


def write_parquet(embedded: Embedded, path: Path) -> None:
    """Write a row per picture: `file`, `embedding`, and each map as a tensor of fixed shape, as pyarrow reads it."""
    told = {"features": json.dumps(embedded.stages)}
    with written_whole(path) as file, ExitStack() as stack:
        writer, held = None, []
        for columns in embedded.batches():
            held.append(arrow.table({name: _column(values) for name, values in columns.items()}, metadata=told))
            writer = writer or stack.enter_context(parquet.ParquetWriter(file, held[0].schema))
            if sum(table.nbytes for table in held) > ROW_GROUP:
                writer.write_table(arrow.concat_tables(held))
                held = []
        if writer and held:
            writer.write_table(arrow.concat_tables(held))


def _column(values: Any) -> Any:
    if isinstance(values, list):
        return arrow.array(values)
    if values.ndim == 2:
        return arrow.FixedSizeListArray.from_arrays(arrow.array(values.ravel()), values.shape[1])
    return arrow.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(values))


def write_npz(embedded: Embedded, path: Path) -> None:
    """Write `files` (N), `embedding` (N, C), a map (N, C, H, W) for each stage, and `features`, the stages as JSON."""
    batches = list(embedded.batches())
    arrays: dict[str, Any] = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    with written_whole(path) as file:
        names = arrays.pop("file")  # the name of an argument of savez
        np.savez(file, files=names, features=np.array(json.dumps(embedded.stages)), **arrays)


def write_page(embedded: Embedded, model: str, by: Projection, path: Path) -> None:
    """Write a page with a point for each picture, near to those that the model takes for similar."""
    places, axes = projected(embedded.embedding, by)
    shown = len(embedded.thumbnails)
    low, extent = places.min(axis=0), max(np.ptp(places, axis=0).max(), 1e-12)  # one scale for both axes
    folders = [name.partition("/")[0] if "/" in name else "" for name in embedded.names[:shown]]
    counts = Counter(folders).most_common()
    template = jinja2.Template(
        Path(__file__).with_name("map.html.jinja").read_text(encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
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


def check_umap() -> None:
    """Raise a ValueError unless the package umap-learn is installed."""
    if find_spec("umap") is None:
        raise ValueError("--map umap needs the package umap-learn: pip install 'vitlab[umap]'; or give --map pca.")


def projected(embedding: Float[np.ndarray, "N C"], by: Projection) -> tuple[Float[np.ndarray, "N 2"], list[str]]:
    """Return places in a plane, and what its two axes are."""
    if by == "pca":
        from sklearn.decomposition import PCA

        pca = PCA(n_components=2, svd_solver="full")
        places = pca.fit_transform(embedding)
        shares = enumerate(pca.explained_variance_ratio_, start=1)
        return places, [f"principal component {i}, {share:.0%} of the variance" for i, share in shares]
    from umap import UMAP

    reducer = UMAP(n_neighbors=min(15, len(embedding) - 1), metric="cosine", random_state=0, n_jobs=1)
    return np.asarray(reducer.fit_transform(embedding), dtype=float), ["UMAP 1", "UMAP 2"]
