"""flyproxy: an Anycast edge proxy for apps that run in VMs around the world.

Two planes meet in shared memory. The *data plane* (``flyproxy._speedups``, compiled) carries requests in worker
processes and never waits for Python; the *control plane* (everything else, Python) supervises processes (``master``),
publishes the picture of the world (``state``), measures and serves operators (``control``), and speaks to people
(``ctl``). A request never asks the control plane anything: it reads shared tables that the control plane keeps true.
"""

from flyproxy._version import __version__

__all__ = ["__version__"]
