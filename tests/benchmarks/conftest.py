"""Some of the emoji domains, small, built from their artwork."""

import pytest

from data_contracts.settings import get_settings
from deployments.samples.emoji import build_emoji
from tasks.contracts import contract_in_force
from tasks.embed import embed_domain
from tasks.ingest import ingest
from tasks.lake import Lake, open_lake
from tasks.media import open_media

EMOJI = ("openmoji-en", "openmoji-fr", "twemoji-de", "twemoji-es", "noto-ru")


@pytest.fixture
def emoji_lake(home) -> Lake:
    """Some of the domains, of four hundred emoji each."""
    lake, media = open_lake(), open_media()
    for sample in build_emoji(home / "sources", items=400):
        if sample.domain in EMOJI:
            ingest(sample.contract, None, lake, media, get_settings().docs, domain=sample.domain)
            embed_domain(lake, media, contract_in_force(lake, sample.domain))
    return lake
