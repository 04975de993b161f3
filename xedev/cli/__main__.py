"""``python -m xedev.cli`` is the command ``xe-mock``."""

import sys

from xedev.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
