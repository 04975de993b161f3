"""Starting and ending the process behind a mount."""

from xedev.node.daemon_start import probe, run_foreground, start
from xedev.node.daemon_stop import Stopped, stop
from xedev.node.fuse_adapter import MountError
from xedev.node.options import MountOptions

__all__ = ("MountError", "MountOptions", "Stopped", "probe", "run_foreground", "start", "stop")
