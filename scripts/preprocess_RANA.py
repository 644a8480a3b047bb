"""The published name of ``python -m data.preprocess.rana``; see its --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.preprocess.rana import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
