"""Training images that grow over the run: small ones are cheap while the network learns what is coarse.

Progressive resizing, as in EfficientNetV2 (Tan and Le 2021, https://arxiv.org/abs/2104.00298, section 4). With patches
of one size, a transformer sees fewer tokens of them, and resizes its position embeddings.
"""

from dataclasses import dataclass

from vitlab.data.photos import Size


@dataclass(kw_only=True, unsafe_hash=True)
class Growth:
    """The side of training images as a function of the fraction of the run that is done.

    Args:
        start: side in pixels at first.
        step: pixels by which it grows each time, a multiple of the model's patch.
        until: fraction of the run after which images have `image_size`; smaller sizes get equal shares before it.
    """

    start: int
    step: int
    until: float = 0.6

    def __post_init__(self) -> None:
        for name in ("start", "step"):
            if vars(self)[name] < 1:
                raise ValueError(f"grow.{name} is {vars(self)[name]}; give pixels, 1 or more.")
        if not 0 < self.until <= 1:
            raise ValueError(f"grow.until is {self.until}; give a fraction of the run, above 0 and at most 1.")

    def sides(self, image_size: int) -> list[int]:
        """Return all sides in order."""
        return [*range(self.start, image_size, self.step), image_size]

    def side(self, image_size: int, progress: float) -> int:
        """Return the side at a point of the run, from 0 to 1."""
        sides = self.sides(image_size)
        return sides[min(int(progress / self.until * (len(sides) - 1)), len(sides) - 1)]

    def shares(self, image_size: int) -> dict[Size, float]:
        """Return the fraction of the run for which each side is used."""
        sides: list[Size] = [*self.sides(image_size)]
        return {side: self.until / (len(sides) - 1) for side in sides[:-1]} | {image_size: 1 - self.until}
