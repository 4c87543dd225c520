"""python -m rmt_edge.cli"""

import sys

from rmt_edge.cli import main

if __name__ == "__main__":
    sys.exit(main())
