"""python -m rmt_edge.cli"""

import sys

from rmt_edge.cli import main

sys.exit(main())
