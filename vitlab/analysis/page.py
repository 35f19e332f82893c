"""All pictures of one or several trained models, as PNGs and as one page that needs nothing else."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from vitlab.analysis import figures
from vitlab.analysis.activations import amplitude, block_outputs
from vitlab.analysis.attention import attention_distance, input_map, query_at, query_map
from vitlab.analysis.canvas import to_pixels, write_png
from vitlab.analysis.embeddings import filter_components, position_similarity
from vitlab.analysis.similarity import FEWEST, model_similarity
from vitlab.models import Backbone, ImageModel

SHOWN = 8  # images in a picture
BLOCKS_SHOWN = 12
ATTENTION_BATCH = 4  # images at a time: the attention of all blocks is held
FEATURE_BATCH = 16  # the same for what blocks pass on

ATTENTION, BLOCKS, FILTERS = "attention maps", "blocks with maps of tokens", "filters of a first convolution"


@dataclass(frozen=True)
class Subject:
    """A trained model in eval mode, and the images as it sees them, on its device.

    Args:
        class_names: what it tells apart; empty for a model that was pre-trained without labels.
    """

    name: str
    model: ImageModel
    images: Float[Tensor, "B C H W"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: list[str]


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
    missing = {subject.name: _missing(subject) for subject in subjects}
    for picture in _pictures(subjects, missing, names, labels):
        path = out / f"{picture.name}.png"
        write_png(picture.figure, path)
        shown.append({**picture._asdict(), "data": base64.b64encode(path.read_bytes()).decode()})
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    template = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    page = template.get_template("page.html.jinja").render(
        subjects=subjects,
        pictures=shown,
        count=len(names),
        missing={name: parts for name, parts in missing.items() if parts},
    )
    (out / "index.html").write_text(page, encoding="utf-8")
    return out / "index.html"


def _missing(subject: Subject) -> list[str]:
    """Return the parts that some pictures show and that this architecture does not have."""
    model, images = subject.model, subject.images[:1]
    parts = {
        ATTENTION: bool(model.attention_maps(images)),
        BLOCKS: bool(block_outputs(model, images)),
        FILTERS: filter_components(model) is not None,
    }
    return [name for name, there in parts.items() if not there]


def _pictures(
    subjects: list[Subject], missing: dict[str, list[str]], names: list[str], labels: list[int] | None
) -> Iterator[Picture]:
    attending, passing = ([s for s in subjects if part not in missing[s.name]] for part in (ATTENTION, BLOCKS))
    if attending:
        yield from _pictures_of_attention(attending, names, labels)
    if passing:
        yield from _pictures_of_blocks(passing, names)
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
                "One map per patch, at its place: how similar the position embeddings of all patches are to its own.",
                figures.draw_positions(positions.cpu().numpy()),
            )


def _pictures_of_attention(subjects: list[Subject], names: list[str], labels: list[int] | None) -> Iterator[Picture]:
    yield Picture(
        "maps",
        "What the decision is read from",
        "Attention followed from what the classifier reads back to the patches of the image, through all blocks, half "
        "of each for the residual connection (rollout, Abnar and Zuidema 2020; Swin's merged tokens hand on in equal "
        "parts). Black is none, the brightest patch of a map is its largest. Below a map, what the model says.",
        figures.draw_maps(
            {s.name: _pixels(s) for s in subjects},
            {s.name: input_map(s.model, s.images[:SHOWN]).cpu().numpy() for s in subjects},
            {s.name: _captions(s, labels) for s in subjects},
            names[:SHOWN],
        ),
    )
    for subject in subjects:
        yield from _pictures_of_heads(subject, names)
    yield Picture(
        "attention-distance",
        "How far heads look",
        "A point is a head: attention times the distance in pixels between query and key, the mean over queries and "
        "images (Dosovitskiy et al. 2021, Fig. 7). The line is the mean over heads.",
        figures.draw_distances({s.name: _distances(s) for s in subjects}),
    )


def _pictures_of_blocks(subjects: list[Subject], names: list[str]) -> Iterator[Picture]:
    yield Picture(
        "amplitude",
        "How large activations become",
        "The variance of a channel over images and tokens after each block, the mean over channels, as in the figure "
        "with which Swin v2 explains its order of norms.",
        figures.draw_amplitudes({s.name: _amplitudes(s) for s in subjects}),
    )
    if len(names) >= FEWEST:
        yield Picture(
            "similarity",
            "Which blocks compute alike",
            "Linear CKA (Kornblith et al. 2019) of the features of all tokens after each block, on the same images: 1 "
            "if they are the same up to rotation and scale, about 0 if they have nothing in common.",
            figures.draw_similarities(_similarities(subjects)),
        )


def _pictures_of_heads(subject: Subject, names: list[str]) -> Iterator[Picture]:
    maps, pixels = subject.model.attention_maps(subject.images[:SHOWN]), _pixels(subject)
    blocks = np.linspace(1, len(maps), min(BLOCKS_SHOWN, len(maps))).round().astype(int)
    patch, (height, width) = maps[0].stride, pixels.shape[1:3]
    # The center of a patch: in the middle of most images four of them meet.
    middle = (height // 2 // patch * patch + patch // 2, width // 2 // patch * patch + patch // 2)
    yield Picture(
        f"heads-{subject.name}",
        f"Heads of {subject.name}",
        f"Where each head looks from the patch with the cross, of {names[0]}, block by block. Each map has its own "
        "scale.",
        figures.draw_heads(
            pixels[:1].repeat(len(blocks), axis=0),
            [query_map(maps[b - 1], query_at(maps[b - 1], *middle))[0].cpu().numpy() for b in blocks],
            [f"block {block}" for block in blocks],
            middle,
        ),
    )
    if subject.model.global_pool == "token":
        heads = list(query_map(maps[-1], 0).cpu().numpy())
        yield Picture(
            f"class-token-{subject.name}",
            f"Class token of {subject.name}",
            "Where each head of the last block looks from the class token, image by image. Each map has its own scale; "
            f"below it, what its brightest patch gets: {1 / heads[0][0].size:.1%} if it looked everywhere alike.",
            figures.draw_class_token(pixels, heads, names[:SHOWN]),
        )


def _pixels(subject: Subject) -> Float[np.ndarray, "B H W C"]:
    return to_pixels(subject.images[:SHOWN], subject.mean, subject.std)


def _captions(subject: Subject, labels: list[int] | None) -> list[tuple[str, bool | None]]:
    """Return what the model says about each image, how sure it is, and whether that is right, where it is known."""
    if not subject.class_names:
        return []
    sure, said = subject.model(subject.images[:SHOWN]).float().softmax(dim=1).max(dim=1)
    answers = zip(said.tolist(), sure.tolist(), strict=True)
    return [
        (f"{subject.class_names[k]}  {share:.0%}", None if labels is None else k == labels[i])
        for i, (k, share) in enumerate(answers)
    ]


def _distances(subject: Subject) -> list[Float[np.ndarray, "h"]]:
    batches = [
        [attention_distance(attention) for attention in subject.model.attention_maps(images)]
        for images in subject.images.split(ATTENTION_BATCH)
    ]
    return [torch.cat(parts).mean(dim=0).cpu().numpy() for parts in zip(*batches, strict=True)]


def _amplitudes(subject: Subject) -> list[float]:
    batches = [
        [amplitude(features) for features in block_outputs(subject.model, images)]
        for images in subject.images.split(FEATURE_BATCH)
    ]
    return [sum(parts) / len(parts) for parts in zip(*batches, strict=True)]


def _similarities(subjects: list[Subject]) -> dict[tuple[str, str], Float[np.ndarray, "I J"]]:
    """Return the similarity of each two models, and of a single one with itself."""
    found = {}
    for a, b in combinations(subjects, 2) if len(subjects) > 1 else [(subjects[0], subjects[0])]:
        pairs = zip(a.images.split(FEATURE_BATCH), b.images.split(FEATURE_BATCH), strict=True)
        batches = [pair for pair in pairs if len(pair[0]) >= FEWEST]
        found[a.name, b.name] = model_similarity(a.model, b.model, batches).numpy()
    return found
