"""Models: ResNet bodies and heads as Flax Linen modules; the only package that imports flax."""

from jaxclf.models.classifier import Classifier, Variables, create_classifier, init_head, init_variables
from jaxclf.models.heads import HEADS, ConcatHead, HeadKind, LinearHead, create_head
from jaxclf.models.norm import BatchNorm
from jaxclf.models.registry import get_config, list_archs
from jaxclf.models.resnet import ResNet, ResNetConfig

__all__ = [
    "HEADS",
    "BatchNorm",
    "Classifier",
    "ConcatHead",
    "HeadKind",
    "LinearHead",
    "ResNet",
    "ResNetConfig",
    "Variables",
    "create_classifier",
    "create_head",
    "get_config",
    "init_head",
    "init_variables",
    "list_archs",
]
