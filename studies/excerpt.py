"""The calibration text of the study: every twentieth book of the training text, a megabyte of each at most.

    python studies/excerpt.py [books-train.txt.zst] > studies/calibration.txt

The books are in the public domain in the United States; the excerpt is made where it is needed and is no part of this repository.
"""

import sys
from pathlib import Path

from kbit.train.data import read_training_text

DEFAULT = Path(__file__).resolve().parents[2] / "shared" / "data" / "text" / "books-train.txt.zst"


def main() -> None:
    """Writes it to stdout."""
    text = read_training_text(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT)
    sys.stdout.write("\n\n".join(book[: 1 << 20] for book in text.split("\0")[::20]))


if __name__ == "__main__":
    main()
