"""Outputs of a frozen network on disk: a teacher's logits, the features of an encoder.

Students of one seed show their teacher the same images, mixed ones too, equal to the bit. The key of a row is a hash of
the image itself, so another augmentation, normalization, size or batch can only miss, never get a wrong answer.

Letters: B images, K numbers of each, N images of a shard.
"""

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from vitlab import log
from vitlab.atomic_files import written_whole

MOST_PENDING = 64 * 2**20  # bytes in memory; an interrupted run loses at most these, or an epoch


class OutputCache:
    """The outputs of one network in a folder, which need not exist; a batch is read or computed as a whole.

    A shard is written whole and never changed: processes may share the folder, and any shard may be deleted. Rows take
    16 + 4 K bytes: for CIFAR-10 (45,000 images, 200 epochs) 0.5 GB a seed, for ImageNet (300 epochs) 1.5 TB.
    """

    def __init__(self, folder: Path, width: int) -> None:
        self.folder, self.width = folder, width
        self.batches = self.answered = 0
        self._shards: list[tuple[np.ndarray, np.ndarray]] = []  # sorted keys (2, N), outputs (N, K); mapped
        self._seen: set[Path] = set()
        self._pending: list[tuple[np.ndarray, Tensor]] = []
        self.flush()

    def outputs(
        self, images: Float[Tensor, "B C H W"], network: Callable[[Tensor], Float[Tensor, "B K"]]
    ) -> Float[Tensor, "B K"]:
        """Return the outputs for a batch, computed unless one shard has all of its images."""
        keys = image_keys(images).cpu().numpy()
        self.batches += 1
        for i, (stored, known) in enumerate(self._shards):
            if _rows(stored, keys[:1]) is not None and (rows := _rows(stored, keys)) is not None:
                self._shards.insert(0, self._shards.pop(i))  # the next batch is mostly there too
                self.answered += 1
                return torch.from_numpy(known[rows]).to(images.device)
        outputs = network(images)
        self._pending.append((keys, outputs.float().cpu()))
        if len(self._pending) * len(keys) * (16 + 4 * self.width) >= MOST_PENDING:
            self.flush()
        return outputs

    def flush(self) -> None:
        """Write the new rows as a shard, and open the shards that others have written."""
        if self._pending:
            keys, outputs = np.concatenate([x for x, _ in self._pending]), torch.cat([y for _, y in self._pending])
            self._pending, order = [], np.argsort(keys[:, 0])
            rows = {"keys": torch.from_numpy(keys[order].T.copy()), "outputs": outputs[torch.from_numpy(order)]}
            try:
                with written_whole(self.folder / f"{uuid4().hex}.safetensors") as file:
                    file.write(save(rows))
            except OSError as error:  # a full disk does not stop training
                log.warning("Cannot store outputs of a frozen network: %s. They are computed again.", error)
        for path in sorted(set(self.folder.glob("*.safetensors")) - self._seen):
            self._seen.add(path)
            try:
                shard = load_file(path)
                self._shards.append((shard["keys"].numpy(), shard["outputs"].numpy()))
            except (OSError, RuntimeError, SafetensorError, KeyError) as error:
                log.warning("%s: skipped, not outputs of a network (%s). You can delete it.", path, error)


def _rows(stored: Int[np.ndarray, "2 N"], keys: Int[np.ndarray, "B 2"]) -> Int[np.ndarray, "B"] | None:
    """Return the row of each key, or None if one has none; of two with equal first halves the second has none."""
    rows = np.minimum(np.searchsorted(stored[0], keys[:, 0]), stored.shape[1] - 1)
    return rows if np.array_equal(stored[:, rows], keys.T) else None


def fingerprint(model: nn.Module, *before: object) -> str:
    """Return 16 hexadecimal digits of what decides an image's outputs: weights, layers, what is done before them."""
    digest = hashlib.sha256(repr(before).encode())
    for name, module in model.named_modules():
        # Weights of the same shapes fit another number of heads, another window, another ε.
        settings = {key: x for key, x in vars(module).items() if isinstance(x, int | float | str | tuple)}
        digest.update(repr((name, type(module).__name__, settings)).encode())
    for name, tensor in model.state_dict().items():
        digest.update(repr((name, tensor.dtype, tensor.shape)).encode())
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def image_keys(images: Float[Tensor, "B C H W"]) -> Int[Tensor, "B 2"]:
    """Return a 128-bit hash of each image's bits, two sums Σ_i w_i x_i mod 2⁶⁴ over its values x read as integers.

    Equal on every device, since integers wrap around. The w are random constants: two images have the same key with a
    probability of 2⁻¹²⁸, or 2⁻⁶⁶ where only signs differ; any two of the 10⁷ of 200 CIFAR epochs, of at most 10⁻⁶.
    """
    bits = images.float().flatten(1).view(torch.int32)  # (B, C · H · W)
    # One sum at a time: the product takes twice the memory of the images.
    return torch.stack([(bits * w).sum(dim=1) for w in _multipliers(bits.shape[1], bits.device)], dim=1)


@lru_cache(maxsize=4)
def _multipliers(values: int, device: torch.device) -> Int[Tensor, "2 values"]:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(-(2**63), 2**63 - 1, (2, values), generator=generator).to(device)
