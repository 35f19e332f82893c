"""Images of another kind of file: DICOM, with a folder for each class. Needs `pip install pydicom`.

    python -m vitlab fit finetune_folder --data.source examples.dicom.Dicom --data.source.root scans \
        --data.source.window '[-1000, 400]' --data.groups '/([^/]+)_[^/]*$'

Values are in the file's own unit, as Hounsfield's for CT. The gray image is three equal channels, as pretrained weights
expect. vitlab parts the images into training, validation and test, by `groups` each patient on one side.
"""

from pathlib import Path

import numpy as np

from vitlab.data import PhotoSource
from vitlab.data.decoding import Half, Pixels, windowed


class Dicom(PhotoSource):
    """Slices `root/<class>/*.dcm`, of which the values from window[0] to window[1] are shown."""

    def __init__(self, root: str, window: tuple[float, float]) -> None:
        self.location, self.window = root, window
        files = sorted(Path(root).glob("*/*.dcm"))
        self.class_names = sorted({file.parent.name for file in files})
        labels = np.array([self.class_names.index(file.parent.name) for file in files])
        self.splits = {"train": ([str(file.relative_to(root)) for file in files], labels)}

    def read(self, name: str, half: Half | None = None) -> Pixels:
        from pydicom import dcmread
        from pydicom.pixels import apply_modality_lut

        file = dcmread(Path(self.location, name))
        return windowed(apply_modality_lut(file.pixel_array, file), self.window).repeat(3, axis=2)
