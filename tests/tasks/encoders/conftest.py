import pytest

from data_contracts.settings import get_settings


@pytest.fixture(scope="session")
def encoder_cache(tmp_path_factory):
    """A home whose cache holds the exported networks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METAFUSE_HOME", str(tmp_path_factory.mktemp("home")))
        get_settings.cache_clear()
        yield get_settings().cache
    get_settings.cache_clear()
