"""All figures of one or several trained models, as PNGs and as one self-contained page."""

import base64
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from referee.report.templates import templates
from torch import Tensor

from vitlab.analysis import figures
from vitlab.analysis.activations import amplitude, block_outputs
from vitlab.analysis.attention import attention_distance, input_map, query_at, query_map
from vitlab.analysis.canvas import to_pixels, write_png
from vitlab.analysis.embeddings import filter_components, position_similarity
from vitlab.analysis.segmentation import MASS, best_heads
from vitlab.analysis.similarity import FEWEST, model_similarity
from vitlab.atomic_files import write_text
from vitlab.models import Backbone, ImageModel

SHOWN = 8  # images in a figure
BLOCKS_SHOWN = 12
ATTENTION_BATCH = 4  # images at a time: the attention maps of all blocks are in memory
FEATURE_BATCH = 16  # the same for the outputs of blocks

ATTENTION, BLOCKS, FILTERS = "attention maps", "blocks with maps of tokens", "filters of a first convolution"


@dataclass(frozen=True)
class Subject:
    """A trained model in eval mode, and the images as it sees them, on its device.

    Args:
        class_names: empty for a model that was pre-trained without labels.
        curves: of a self-distillation, see `vitlab.evaluation.collapse.collapse_curves`.
        outputs: of its head.
        masks: of the objects in the first images, (SHOWN, H, W), where the data know them.
        heat: of a classifier: how much each cell of the first images speaks for its answer, and the probability that is
            left without those that speak most for it, see `vitlab.evaluation.relevance`.
    """

    name: str
    model: ImageModel
    images: Float[Tensor, "B C H W"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: list[str]
    curves: pd.DataFrame | None = None
    outputs: int | None = None
    masks: Bool[Tensor, "SHOWN H W"] | None = None
    heat: tuple[Float[Tensor, "SHOWN n n"], Float[Tensor, "SHOWN"]] | None = None

    def pixels(self) -> Float[np.ndarray, "SHOWN H W C"]:
        """Return the first images with values in [0, 1]."""
        return to_pixels(self.images[:SHOWN], self.mean, self.std)

    def captions(self, labels: list[int] | None) -> list[figures.Caption]:
        """Return the predicted class and its probability for the first images."""
        if not self.class_names:
            return []
        probability, predicted = self.model(self.images[:SHOWN]).float().softmax(dim=1).max(dim=1)
        return [
            (f"{self.class_names[k]}  {p:.0%}", None if labels is None else k == labels[i])
            for i, (k, p) in enumerate(zip(predicted.tolist(), probability.tolist(), strict=True))
        ]

    def missing(self) -> list[str]:
        """Return the parts that some figures show and that this architecture lacks."""
        parts = {
            ATTENTION: bool(self.model.attention_maps(self.images[:1])),
            BLOCKS: bool(block_outputs(self.model, self.images[:1])),
            FILTERS: filter_components(self.model) is not None,
        }
        return [name for name, exists in parts.items() if not exists]


class Picture(NamedTuple):
    """A figure, the name of its file, and what it shows."""

    name: str
    title: str
    text: str
    figure: Figure


@torch.no_grad()
def write_page(subjects: list[Subject], names: list[str], labels: list[int] | None, out: Path) -> Path:
    """Draw everything into a folder and return the path of its index.html.

    Args:
        names: of the images, the same for all subjects.
        labels: of the images, where they are known.
    """
    shown = []
    missing = {subject.name: subject.missing() for subject in subjects}
    for picture in _pictures(subjects, missing, names, labels):
        path = out / f"{picture.name}.png"
        write_png(picture.figure, path)
        shown.append({**picture._asdict(), "data": base64.b64encode(path.read_bytes()).decode()})
    template = templates(Path(__file__).parent).get_template("page.html.jinja")
    page = template.render(subjects=subjects, pictures=shown, count=len(names), missing=missing)
    write_text(out / "index.html", page)
    return out / "index.html"


def _pictures(
    subjects: list[Subject], missing: dict[str, list[str]], names: list[str], labels: list[int] | None
) -> Iterator[Picture]:
    with_attention, with_blocks = ([s for s in subjects if part not in missing[s.name]] for part in (ATTENTION, BLOCKS))
    with_heat = [subject for subject in subjects if subject.heat is not None]
    if with_heat:
        yield _picture_of_heat(with_heat, names, labels)
    if with_attention:
        yield from _pictures_of_attention(with_attention, names, labels)
    if with_blocks:
        yield from _pictures_of_blocks(with_blocks, len(names))
    curves = {subject.name: subject.curves for subject in subjects if subject.curves is not None}
    if curves:
        outputs = {subject.outputs for subject in subjects if subject.curves is not None}
        yield Picture(
            "collapse",
            "Whether the teacher collapsed",
            "By epoch (Caron et al. 2021, Fig. 7). A KL of 0 is a collapse: with an entropy of 0 one output wins for "
            "every image, with an entropy of ln K all K outputs are as likely for any image. Rank is the effective "
            "number of dimensions of the validation features (RankMe), 1 where all images look alike.",
            figures.draw_collapse(curves, outputs.pop() if len(outputs) == 1 else None),
        )
    for subject in subjects:
        filters = filter_components(subject.model)
        if filters is not None:
            yield Picture(
                f"filters-{subject.name}",
                f"Filters of {subject.name}",
                "The first principal components of the first layer's filters, each stretched to the full range.",
                figures.draw_filters(filters.cpu().numpy()),
            )
        positions = position_similarity(subject.model) if isinstance(subject.model, Backbone) else None
        if positions is not None:
            yield Picture(
                f"positions-{subject.name}",
                f"Positions of {subject.name}",
                "One map per patch, at its place: the similarity of its position embedding to those of all patches.",
                figures.draw_positions(positions.cpu().numpy()),
            )


def _pictures_of_attention(subjects: list[Subject], names: list[str], labels: list[int] | None) -> Iterator[Picture]:
    yield Picture(
        "maps",
        "Which patches reach the classifier",
        "Attention rollout (Abnar and Zuidema 2020): attention is followed through all blocks from what the classifier "
        "reads back to the patches of the image, half of each block for the residual connection. Merged tokens of a "
        "Swin pass theirs on in equal parts. Black is zero; each map has its own scale. Captions are predictions.",
        figures.draw_maps(
            {s.name: s.pixels() for s in subjects},
            {s.name: input_map(s.model, s.images[:SHOWN]).cpu().numpy() for s in subjects},
            {s.name: s.captions(labels) for s in subjects},
            names[:SHOWN],
        ),
    )
    for subject in subjects:
        yield from _pictures_of_heads(subject, names)
    outlining = [s for s in subjects if s.masks is not None and s.model.global_pool == "token"]
    if outlining:
        yield _picture_of_outlines(outlining, names)
    distances = {}
    for s in subjects:
        batches = [map(attention_distance, s.model.attention_maps(x)) for x in s.images.split(ATTENTION_BATCH)]
        distances[s.name] = [torch.cat(block).mean(dim=0).cpu().numpy() for block in zip(*batches, strict=True)]
    yield Picture(
        "attention-distance",
        "Attention distance",
        "Each point is a head: attention times the distance in pixels between query and key, averaged over queries and "
        "images (Dosovitskiy et al. 2021, Fig. 7). The line is the mean over heads.",
        figures.draw_distances(distances),
    )


def _picture_of_heat(subjects: list[Subject], names: list[str], labels: list[int] | None) -> Picture:
    maps, captions = {}, {}
    for subject in subjects:
        assert subject.heat is not None
        heat, left = subject.heat
        maps[subject.name] = heat.clamp(min=0).cpu().numpy()
        pairs = zip(subject.captions(labels), left.tolist(), strict=True)
        captions[subject.name] = [(f"{text} → {p:.0%}", right) for (text, right), p in pairs]
    return Picture(
        "heat",
        "Which pixels speak for the answer",
        "Integrated gradients (Sundararajan et al. 2017) of the predicted class, the same for every architecture, by "
        "cell of an 8 x 8 grid. Black is zero or evidence against it; each map has its own scale. The second "
        "percentage is the class's probability when the tenth of the cells that speaks most for it is blurred: little, "
        "if the map is right.",
        figures.draw_maps({s.name: s.pixels() for s in subjects}, maps, captions, names[:SHOWN]),
    )


def _picture_of_outlines(subjects: list[Subject], names: list[str]) -> Picture:
    maps: dict[str, np.ndarray] = {}
    captions: dict[str, list[figures.Caption]] = {"mask": []}
    for subject in subjects:
        assert subject.masks is not None
        maps.setdefault("mask", subject.masks.cpu().numpy().astype(float))
        outlines, overlaps = best_heads(subject.model, subject.images[:SHOWN], subject.masks)
        maps[subject.name] = outlines.cpu().numpy().astype(float)
        captions[subject.name] = [(f"Jaccard {overlap:.0%}", None) for overlap in overlaps.tolist()]
    pixels = {"mask": subjects[0].pixels(), **{s.name: s.pixels() for s in subjects}}
    return Picture(
        "outlines",
        "How well attention outlines objects",
        f"The patches that hold {MASS:.0%} of the class token's attention in the last block, of the head that is best "
        "on the image (Caron et al. 2021, Fig. 4), and their Jaccard similarity to the mask. `probe` gives the mean "
        "over the test images.",
        figures.draw_maps(pixels, maps, captions, names[:SHOWN]),
    )


def _pictures_of_blocks(subjects: list[Subject], images: int) -> Iterator[Picture]:
    amplitudes = {}
    for s in subjects:
        equal = s.images.tensor_split(math.ceil(len(s.images) / FEATURE_BATCH))  # a small last one would count as much
        batches = [map(amplitude, block_outputs(s.model, x)) for x in equal]
        amplitudes[s.name] = [fmean(block) for block in zip(*batches, strict=True)]
    yield Picture(
        "amplitude",
        "How large activations become",
        "The variance of a channel over images and tokens after each block, averaged over channels, as in the figure "
        "by which Swin v2 motivates res-post-norm.",
        figures.draw_amplitudes(amplitudes),
    )
    if images < FEWEST:
        return
    similarities = {}
    for a, b in combinations(subjects, 2) if len(subjects) > 1 else [(subjects[0], subjects[0])]:
        pairs = zip(a.images.split(FEATURE_BATCH), b.images.split(FEATURE_BATCH), strict=True)
        similarity = model_similarity(a.model, b.model, (pair for pair in pairs if len(pair[0]) >= FEWEST))
        similarities[a.name, b.name] = similarity.numpy()
    yield Picture(
        "similarity",
        "Which blocks compute similar features",
        "Linear CKA (Kornblith et al. 2019) of the features of all tokens after each block, on the same images: 1 if "
        "they are equal up to rotation and scale, about 0 if they are unrelated.",
        figures.draw_similarities(similarities),
    )


def _pictures_of_heads(subject: Subject, names: list[str]) -> Iterator[Picture]:
    maps, pixels = subject.model.attention_maps(subject.images[:SHOWN]), subject.pixels()
    blocks = np.linspace(1, len(maps), min(BLOCKS_SHOWN, len(maps))).round().astype(int)
    patch, (height, width) = maps[0].stride, pixels.shape[1:3]
    # The center of a patch: in the center of most images four patches meet.
    center = (height // 2 // patch * patch + patch // 2, width // 2 // patch * patch + patch // 2)
    yield Picture(
        f"heads-{subject.name}",
        f"Heads of {subject.name}",
        f"Attention of each head from the patch with the cross, block by block, on {names[0]}. Each map has its own "
        "scale.",
        figures.draw_heads(
            pixels[:1].repeat(len(blocks), axis=0),
            [query_map(maps[b - 1], query_at(maps[b - 1], *center))[0].cpu().numpy() for b in blocks],
            [f"block {block}" for block in blocks],
            center,
        ),
    )
    if subject.model.global_pool == "token":
        heads = query_map(maps[-1], 0).cpu().numpy()  # (B, h, H, W)
        yield Picture(
            f"class-token-{subject.name}",
            f"Class token of {subject.name}",
            "Attention of each head of the last block from the class token, by image. Each map has its own scale; "
            f"below it is the weight of its brightest patch, {1 / heads[0, 0].size:.1%} under uniform attention.",
            figures.draw_class_token(pixels, heads, names[:SHOWN]),
        )
