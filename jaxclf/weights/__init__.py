"""Weights: other libraries' checkpoints to jaxclf's variables and back, exactly and strictly."""

from jaxclf.weights.load import Pretrained, load_weights
from jaxclf.weights.state_dict import adapt_input_channels, convert_state_dict, merge_variables, to_state_dict

__all__ = [
    "Pretrained",
    "adapt_input_channels",
    "convert_state_dict",
    "load_weights",
    "merge_variables",
    "to_state_dict",
]
