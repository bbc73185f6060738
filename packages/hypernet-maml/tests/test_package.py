from importlib.metadata import version

import hypernet_maml


def test_module_and_distribution_agree_on_the_version() -> None:
    assert hypernet_maml.__version__ == version("hypernet-maml")
