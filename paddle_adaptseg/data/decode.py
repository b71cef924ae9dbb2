"""From bytes to arrays. Real label files differ from their papers; each way of storing ids is a row here."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Callable, Optional

import cv2
import numpy as np
from PIL import Image

from paddle_adaptseg.core.errors import DataError
from paddle_adaptseg.data.files import Ref
from paddle_adaptseg.data.windows import image_window

MAX_PIXELS = 64_000_000  # eight times the largest street scene; more is a decompression bomb
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # _open refuses, and names the file
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm")  # of image files
TAIL = 4096  # bytes at the end of a JPEG among which its end mark must be


def image_size(ref: Ref, data: bytes) -> tuple[int, int]:
    """(width, height) from an image's header, before anything large is allocated."""
    with _open(ref, data) as opened:
        return opened.size


def decode_rgb(ref: Ref, size: Optional[Sequence[int]] = None) -> np.ndarray:
    """An RGB image [H, W, 3] uint8, resized to (width, height) by Pillow's antialiased bicubic filter if given."""
    image = decode_bgr(ref)
    return image_window(image, size or image.shape[1::-1])


def decode_bgr(ref: Ref) -> np.ndarray:
    """An image as stored, in the order in which OpenCV decodes it."""
    data = ref.read()
    image_size(ref, data)
    return _decode(ref, data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)


def _decode(ref: Ref, data: bytes, flags: int) -> np.ndarray:
    """OpenCV's decoder. Versions before 4.11 fill up a JPEG that ends early, so its end is looked for here."""
    cut = data.startswith(b"\xff\xd8") and b"\xff\xd9" not in data[-TAIL:]
    try:
        image = None if cut else cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except (cv2.error, MemoryError):
        image = None
    if image is None:
        raise DataError(f"cannot read '{ref}': the image is damaged")
    return image


def decode_ids(ref: Ref) -> np.ndarray:
    """Ids from an 8-bit image. A palette image (GTA5) gives its indices, which are the ids."""
    with _open(ref, ref.read()) as opened:
        if opened.mode not in ("P", "L"):
            raise DataError(
                f"label '{ref}' must hold 8-bit ids, but its mode is {opened.mode}: a colour image is not a label"
            )
        try:
            return np.asarray(opened)
        except Exception as error:  # Pillow's decoders raise many kinds for damaged files
            raise DataError(f"cannot read '{ref}': {error or type(error).__name__}") from None


def decode_red16(ref: Ref) -> np.ndarray:
    """SYNTHIA: the class is the red channel of a 16-bit image; Pillow would cut it to 8 bits."""
    data = ref.read()
    image_size(ref, data)
    label = _decode(ref, data, cv2.IMREAD_UNCHANGED)
    if label.ndim != 3 or label.dtype != np.uint16:
        depth = f"{label.dtype}, {1 if label.ndim == 2 else label.shape[2]} channels"
        raise DataError(
            f"label '{ref}' must be a 16-bit colour image, but is {depth} (use GT/LABELS of SYNTHIA, not GT/COLOR)"
        )
    red = label[:, :, 2]  # OpenCV's order is blue, green, red
    if not red.any() and label.any():
        raise DataError(
            f"label '{ref}' has nothing in its red channel, where SYNTHIA's classes are, but numbers in another one: "
            "were its channels swapped? unpack the original file again"
        )
    if int(red.max(initial=0)) > 255:
        raise DataError(f"label '{ref}' holds the id {int(red.max())}, which is no class (is it another channel?)")
    return red.astype(np.uint8)


LABELS: Mapping[str, Callable[[Ref], np.ndarray]] = {"ids": decode_ids, "red16": decode_red16}


def _open(ref: Ref, data: bytes) -> Image.Image:
    try:
        opened = Image.open(io.BytesIO(data))
        if opened.size[0] * opened.size[1] > MAX_PIXELS:  # Pillow itself only warns up to twice its limit
            raise Image.DecompressionBombError
        return opened
    except Image.DecompressionBombError:
        raise DataError(f"'{ref}' has more than {MAX_PIXELS // 10**6} million pixels; it is refused") from None
    except Exception as error:  # Pillow's readers raise many kinds for damaged files
        reason = "the file is empty" if not data else "it is not an image or is damaged"
        raise DataError(f"cannot read '{ref}': {reason}") from error
