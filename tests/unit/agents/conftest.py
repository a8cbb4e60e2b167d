"""The conversations that the project ships, and the sample beside the checkout."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SHIPPED = ROOT / "agents" / "conversations"
SAMPLE = Path(os.environ.get("SPINE_SAMPLE") or ROOT.parent / "shared" / "data" / "sgd-sample")


@pytest.fixture(scope="session")
def shipped() -> Path:
    return SHIPPED


@pytest.fixture(scope="session")
def sample() -> Path:
    if not SAMPLE.is_dir():
        pytest.skip(f"no sample conversations in {SAMPLE}")
    return SAMPLE
