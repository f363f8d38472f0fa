"""Models: ResNet bodies and heads as Flax Linen modules; the only package that imports flax."""

from jaxclf.models.classifier import Classifier, Variables, check_frozen, create_classifier, init_variables
from jaxclf.models.heads import HEADS, ConcatHead, HeadKind, LinearHead
from jaxclf.models.norm import BatchNorm
from jaxclf.models.registry import get_config, list_archs
from jaxclf.models.resnet import CUTS, MODULES, ResNet, ResNetConfig

__all__ = [
    "CUTS",
    "HEADS",
    "MODULES",
    "BatchNorm",
    "Classifier",
    "ConcatHead",
    "HeadKind",
    "LinearHead",
    "ResNet",
    "ResNetConfig",
    "Variables",
    "check_frozen",
    "create_classifier",
    "get_config",
    "init_variables",
    "list_archs",
]
