"""The small models that are trained."""

import torch

from dgl_lowbit.experiments.models import MODELS


def build(name="gcn", seed=0, **options):
    torch.manual_seed(seed)
    return MODELS[name](1433, 7, hidden=16, **options)
