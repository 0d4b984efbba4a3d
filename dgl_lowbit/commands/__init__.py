"""The commands of ``dgl-lowbit``, a module each: ``add`` makes its parser, whose ``run`` is called with the options."""

from . import bench, demo, export, info, plot, predict, report, study, train

COMMANDS = (demo, train, report, study, bench, plot, export, predict, info)
