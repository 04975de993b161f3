"""``python -m xedev.gpu FD``: the GPU, at the other end of a socket."""

import signal
import sys

from xedev.gpu.executor import main

# The driver ends it by closing the socket; what a terminal sends is meant for others.
signal.signal(signal.SIGINT, signal.SIG_IGN)
main(int(sys.argv[1]))
