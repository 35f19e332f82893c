from vitlab.data import Digits
from vitlab.data.noise import Noise


def test_images_are_enlarged_on_the_way_as_the_experiment_says() -> None:
    noise = Noise(Digits(batch_size=4, image_size=24), batches=1)
    (images,), _ = noise.on_after_batch_transfer(noise.batch(), 0)
    assert images.shape == (4, 1, 24, 24)
