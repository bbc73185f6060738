import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.import_plugin("priors_shared.testing")
