"""Frames to CLIP's pictures on the host, by transformers' processor: what CLIP's own code does, on PIL, without JAX."""

from functools import cache
from typing import Any

import numpy as np
from jaxtyping import UInt8

SIZE = 224  # pixels along a side


def resize(frames: UInt8[np.ndarray, "n height width 3"]) -> UInt8[np.ndarray, "n size size 3"]:
    """RGB frames of any size -> shortest edge to 224 by PIL's bicubic filter, then the centre square."""
    made = _processor()(list(frames), do_rescale=False, do_normalize=False, input_data_format="channels_last")
    return np.stack(made["pixel_values"]).astype(np.uint8).transpose(0, 2, 3, 1)


@cache
def _processor() -> Any:
    try:
        from transformers import CLIPImageProcessorPil
    except ImportError as error:
        raise ImportError(f"CLIP's processor needs transformers: pip install 'scav-jax[media]' ({error})") from error
    return CLIPImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}, do_convert_rgb=False
    )
