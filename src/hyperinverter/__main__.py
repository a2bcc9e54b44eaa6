"""``python -m hyperinverter``: the console command where it is not installed."""

import sys

from hyperinverter.commands import main

if __name__ == "__main__":
    sys.exit(main())
