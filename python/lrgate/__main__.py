"""``python -m lrgate``: the same as the command ``lrgate``."""

import sys

from lrgate.cli import main

if __name__ == "__main__":
    sys.exit(main())
