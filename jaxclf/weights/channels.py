"""Pretrained weights for pictures with another number of channels than three."""

from typing import Any

import numpy as np

from jaxclf.models import Variables


def adapt_input_channels(variables: Variables, in_channels: int) -> Variables:
    """Variables whose first convolution takes `in_channels` channels instead of its own c.

    One channel: the kernel is summed over its input channels, so a grey picture gives what the same picture in c equal
    channels gave. More: the kernel is repeated in order (r, g, b, r, g, ...) and scaled by c / in_channels, so the
    response to equal channels keeps its size. The normalisation has to be given for the new channels as well.

    Args:
      variables: of a network with c input channels.
      in_channels: >= 1.

    Returns:
      New variables; all but the first kernel is shared.

    Raises:
      ValueError: if `in_channels` is less than 1.
    """
    if in_channels < 1:
        raise ValueError(f"in_channels={in_channels} must be at least 1")
    stem = variables["params"]["body"]["stem"]
    kernel = np.asarray(stem["conv1"]["kernel"])  # [h, w, c, out]
    channels = kernel.shape[2]
    if in_channels == channels:
        return variables
    if in_channels == 1:
        adapted = kernel.sum(2, keepdims=True)
    else:
        adapted = kernel[:, :, np.arange(in_channels) % channels] * (channels / in_channels)
    first: dict[str, Any] = {**stem["conv1"], "kernel": adapted.astype(kernel.dtype)}
    body = {**variables["params"]["body"], "stem": {**stem, "conv1": first}}
    return {**variables, "params": {**variables["params"], "body": body}}
