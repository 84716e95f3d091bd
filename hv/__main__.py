"""`python -m hv` is `hv`."""

import sys

from hv.cli import main

if __name__ == "__main__":
    sys.exit(main())
