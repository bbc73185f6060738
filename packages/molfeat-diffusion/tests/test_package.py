from importlib.metadata import version

import molfeat_diffusion


def test_module_and_distribution_agree_on_the_version() -> None:
    assert molfeat_diffusion.__version__ == version("molfeat-diffusion")
