"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest

os.environ["KBIT_TUNING"] = ""  # what was measured on this machine is no part of a test


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of evaluation texts and small models; tests that read it are skipped where it is absent."""
    root = Path(os.environ.get("KBIT_SHARED", Path(__file__).parents[2] / "shared")) / "data"
    if not root.is_dir():
        pytest.skip(f"no shared data at {root}; set KBIT_SHARED")
    return root
