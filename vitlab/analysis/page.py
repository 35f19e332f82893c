"""All figures of one or several trained models, as PNGs and as one self-contained page."""

import base64
import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from referee.report import document
from referee.report.drawing import Chart, Drawing
from torch import Tensor

from vitlab.analysis import figures
from vitlab.analysis.attention import attention_distance, query_at, query_map
from vitlab.analysis.canvas import to_pixels, write_png
from vitlab.analysis.measures import amplitude, block_outputs, filter_components, position_similarity
from vitlab.analysis.relevance import heat_of
from vitlab.atomic_files import write_text
from vitlab.models import AttentionMap, Backbone, ImageModel

SHOWN = 8  # images in a figure
BLOCKS_SHOWN = 12
ATTENTION_BATCH = 4  # images at a time: the attention maps of all blocks are in memory
FEATURE_BATCH = 16  # the same for the outputs of blocks

ATTENTION, BLOCKS, FILTERS = "attention maps", "blocks with maps of tokens", "filters of a first convolution"


@dataclass(frozen=True)
class Subject:
    """A trained model in eval mode, and the images as it sees them, on its device."""

    name: str
    model: ImageModel
    images: Float[Tensor, "B C H W"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: list[str]  # empty for a model that was pre-trained without labels

    def pixels(self) -> Float[np.ndarray, "SHOWN H W C"]:
        """Return the first images with values in [0, 1]."""
        return to_pixels(self.images[:SHOWN], self.mean, self.std)

    @cached_property
    def lacks(self) -> list[str]:
        """The parts that some figures show and that this architecture lacks."""
        parts = {
            ATTENTION: bool(self.model.attention_maps(self.images[:1])),
            BLOCKS: bool(block_outputs(self.model, self.images[:1])),
            FILTERS: filter_components(self.model) is not None,
        }
        return [name for name, exists in parts.items() if not exists]


class Shown(NamedTuple):
    """The images that all subjects see."""

    names: list[str]
    labels: list[int]


class Picture(NamedTuple):
    """A figure, the name of its file, and what it shows."""

    name: str
    title: str
    text: str
    figure: Figure

    def draw(self, results: object, layout: object) -> Figure:
        return self.figure


@torch.no_grad()
def write_page(subjects: list[Subject], images: Shown, out: Path) -> Path:
    """Draw everything into a folder and return the path of its index.html."""
    title, sections = f"What {', '.join(subject.name for subject in subjects)} learned", []
    for picture in (picture for draw in PICTURES for picture in draw(subjects, images)):
        path, alt = out / f"{picture.name}.png", html.escape(picture.title)
        write_png(picture.figure, path)
        data = base64.b64encode(path.read_bytes()).decode()
        image = f'<img src="data:image/png;base64,{data}" alt="{alt}" style="max-width: 100%">'
        chart = Chart(picture.name, picture.title, picture.draw)
        figure = document.Figure(Drawing(chart, image, ""), picture.text)
        sections.append(document.Section(picture.title, [figure]))
    page = document.Document(
        title=title,
        kicker=f"Measured on {len(images.names)} images.",
        heading=title,
        lead=[],
        remarks=[
            f"{subject.name} has no {' and no '.join(subject.lacks)}; the page leaves these pictures out."
            for subject in subjects
            if subject.lacks
        ],
        sections=sections,
    )
    write_text(out / "index.html", document.render(page, "report.html"))
    return out / "index.html"


def _heat(subjects: Sequence[Subject], images: Shown) -> Iterator[Picture]:
    pixels, maps = {}, {}
    captions: dict[str, list[figures.Caption]] = {}
    for subject in subjects:
        if subject.class_names:
            heat = heat_of(subject.model, subject.images[:SHOWN], subject.class_names)
            right = [k == label for k, label in zip(heat.answers, images.labels, strict=False)]
            pixels[subject.name], maps[subject.name] = subject.pixels(), heat.maps
            captions[subject.name] = [*zip(heat.captions, right, strict=True)]
    if maps:
        yield Picture(
            "heat",
            "Which pixels speak for the answer",
            "Integrated gradients (Sundararajan et al. 2017) of the predicted class, the same for every architecture, "
            "by cell of an 8 x 8 grid. Black is zero or evidence against it; each map has its own scale. The second "
            "percentage is the class's probability when the tenth of the cells that speaks most for it is blurred: "
            "little, if the map is right.",
            figures.draw_maps(pixels, maps, captions, images.names[:SHOWN]),
        )


def _heads(subjects: Sequence[Subject], images: Shown) -> Iterator[Picture]:
    for subject in (subject for subject in subjects if ATTENTION not in subject.lacks):
        maps, pixels = subject.model.attention_maps(subject.images[:SHOWN]), subject.pixels()
        blocks = np.linspace(1, len(maps), min(BLOCKS_SHOWN, len(maps))).round().astype(int)
        patch, (height, width) = maps[0].stride, pixels.shape[1:3]
        # The center of a patch: in the center of most images four patches meet.
        center = (height // 2 // patch * patch + patch // 2, width // 2 // patch * patch + patch // 2)
        yield Picture(
            f"heads-{subject.name}",
            f"Heads of {subject.name}",
            f"Attention of each head from the patch with the cross, block by block, on {images.names[0]}. Each map has "
            "its own scale.",
            figures.draw_heads(
                pixels[:1].repeat(len(blocks), axis=0),
                [of_pixels(maps[b - 1], query_at(maps[b - 1], *center), height, width) for b in blocks],
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
                "below it is the weight of its brightest patch, "
                f"{1 / maps[-1].weights.shape[2]:.1%} under uniform attention.",
                figures.draw_class_token(pixels, heads, images.names[:SHOWN]),
            )


def of_pixels(attention: AttentionMap, query: int, height: int, width: int) -> Float[np.ndarray, "h H W"]:
    """Return a query's attention by pixel of the first image: a Swin's padded map covers more than the image."""
    heads = query_map(attention, query)[0].repeat_interleave(attention.stride, 1).repeat_interleave(attention.stride, 2)
    return heads[:, :height, :width].cpu().numpy()


def _distances(subjects: Sequence[Subject], images: Shown) -> Iterator[Picture]:
    distances = {}
    for s in (subject for subject in subjects if ATTENTION not in subject.lacks):
        batches = [[*map(attention_distance, s.model.attention_maps(x))] for x in s.images.split(ATTENTION_BATCH)]
        distances[s.name] = [torch.cat(block).mean(dim=0).cpu().numpy() for block in zip(*batches, strict=True)]
    if distances:
        yield Picture(
            "attention-distance",
            "Attention distance",
            "Each point is a head: attention times the distance in pixels between query and key, averaged over queries "
            "and images (Dosovitskiy et al. 2021, Fig. 7). The line is the mean over heads.",
            figures.draw_distances(distances),
        )


def _amplitudes(subjects: Sequence[Subject], images: Shown) -> Iterator[Picture]:
    amplitudes = {}
    for s in (subject for subject in subjects if BLOCKS not in subject.lacks):
        equal = s.images.tensor_split(math.ceil(len(s.images) / FEATURE_BATCH))  # a small last one would count as much
        batches = [[*map(amplitude, block_outputs(s.model, x))] for x in equal]
        amplitudes[s.name] = [fmean(block) for block in zip(*batches, strict=True)]
    if amplitudes:
        yield Picture(
            "amplitude",
            "How large activations become",
            "The variance of a channel over images and tokens after each block, averaged over channels, as in the "
            "figure by which Swin v2 motivates res-post-norm.",
            figures.draw_amplitudes(amplitudes),
        )


def _first_layers(subjects: Sequence[Subject], images: Shown) -> Iterator[Picture]:
    for subject in subjects:
        if (filters := filter_components(subject.model)) is not None:
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


PICTURES = (_heat, _heads, _distances, _amplitudes, _first_layers)
