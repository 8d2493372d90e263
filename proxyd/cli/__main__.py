"""``python -m proxyd.cli``: the same as the console script."""

import sys

from proxyd.cli.main import main

sys.exit(main())
