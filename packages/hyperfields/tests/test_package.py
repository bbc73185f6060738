from importlib.metadata import version

import hyperfields


def test_module_and_distribution_agree_on_the_version() -> None:
    assert hyperfields.__version__ == version("hyperfields")
