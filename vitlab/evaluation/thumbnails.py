"""Small pictures inside a page."""

import base64
import io

import numpy as np
from PIL import Image

PIXELATED_BELOW = 64  # px: smaller images are enlarged without smoothing
LARGEST = 160  # px: larger images are reduced


def data_uri(image: np.ndarray) -> str:
    """Encode an image (H, W, C) as a data URI: small images as PNG, larger ones as reduced JPEG.

    Of other channels than gray or color, the first ones are shown.
    """
    picture = Image.fromarray(image[..., 0] if image.shape[2] < 3 else np.ascontiguousarray(image[..., :3]))
    picture.thumbnail((LARGEST, LARGEST))  # never enlarges
    lossless = max(image.shape[:2]) < PIXELATED_BELOW
    out = io.BytesIO()
    if lossless:
        picture.save(out, "PNG", optimize=True)
    else:
        picture.save(out, "JPEG", quality=85)
    return f"data:image/{'png' if lossless else 'jpeg'};base64,{base64.b64encode(out.getvalue()).decode()}"
