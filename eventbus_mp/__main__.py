"""`python -m eventbus_mp`: the command line, as `eventbus-mp`."""

import sys

from eventbus_mp.cli import main

if __name__ == "__main__":
    sys.exit(main())
