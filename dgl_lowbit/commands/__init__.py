"""The commands of ``dgl-lowbit``, a module each: ``add`` makes its parser, whose ``run`` is called with the options."""

from . import bench, demo, export, info, predict, study, train

COMMANDS = (demo, train, study, bench, export, predict, info)
