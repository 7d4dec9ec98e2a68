"""``python -m flyproxy.worker``: started by the master, never by hand."""

from flyproxy.boot import leave
from flyproxy.worker.main import main

leave(main())
