"""Low-bit graph neural networks for DGL: train at 2, 4 or 8 bits, run packed integers on a plain CPU."""

from ._environment import prepare as _prepare

_prepare()

from numba_kernels.errors import LowBitError

from . import allocation, nn, quant, smoothness
from ._moved import MOVED as _MOVED
from ._moved import install as _install
from ._version import __version__
from .allocation import allocate
from .calibration import NearestRoundingWarning, calibrate
from .config import QuantConfig
from .convert import FloatModuleWarning, quantize
from .diagnose import diagnose, sensitivity
from .nn import register_layer
from .nn.teacher import teacher_loss
from .pruning import Pruner
from .smoothness import SmoothnessRegularizer
from .training import BanditSampler, boost, fit, train

_install(__name__)

# Deployment needs Numba, whose import takes longer than the rest of the package: loaded when first asked for.
_DEPLOY = ("FeatureStore", "FreezeError", "PackedModel", "compress", "freeze", "load")

__all__ = [
    "BanditSampler",
    "FloatModuleWarning",
    "NearestRoundingWarning",
    "LowBitError",
    "Pruner",
    "QuantConfig",
    "SmoothnessRegularizer",
    "__version__",
    "allocate",
    "allocation",
    "boost",
    "calibrate",
    "diagnose",
    "fit",
    "nn",
    "quant",
    "quantize",
    "register_layer",
    "sensitivity",
    "smoothness",
    "teacher_loss",
    "train",
    *_DEPLOY,
]


def __getattr__(name):
    if name in _DEPLOY:
        from . import deploy

        return getattr(deploy, name)
    if name in ("deploy", "distributed", "experiments", *_MOVED):
        import importlib

        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
