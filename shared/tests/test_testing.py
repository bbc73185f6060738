"""The pytest plugin, run on small test files of its own."""

import pytest

pytest_plugins = ["pytester"]

CONFTEST = """
    def pytest_configure(config):
        config.pluginmanager.import_plugin("priors_shared.testing")
"""
TESTS = """
    import os
    import pytest

    def test_takes_the_folder(reference_data):
        assert (reference_data / "here").exists()

    def test_takes_the_other_folder(reference_parity):
        assert (reference_parity / "here").exists()

    @pytest.mark.reference
    def test_is_marked():
        assert os.environ["PRIORS_DATA"]

    def test_is_not_marked():
        assert "PRIORS_DATA" not in os.environ and "PRIORS_PARITY" not in os.environ

    def test_finds_no_dataset(reference_data):
        pytest.skip("no such dataset in the folder")
"""
VARIABLES = ("PRIORS_DATA", "PRIORS_PARITY", "PRIORS_REQUIRE_REFERENCE")


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    (pytester.path / "here").touch()
    return pytester


def run(project: pytest.Pytester) -> dict[str, int]:
    outcomes = project.runpytest_subprocess().parseoutcomes()
    return {kind: outcomes.get(kind, 0) for kind in ("passed", "skipped", "failed", "errors")}


def test_skips_where_no_folder_is_named(project: pytest.Pytester) -> None:
    assert run(project) == {"passed": 1, "skipped": 4, "failed": 0, "errors": 0}


def test_runs_where_folders_are_named(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRIORS_DATA", str(project.path))
    monkeypatch.setenv("PRIORS_PARITY", str(project.path))
    assert run(project) == {"passed": 4, "skipped": 1, "failed": 0, "errors": 0}


def test_a_skip_fails_where_reference_is_required(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRIORS_REQUIRE_REFERENCE", "1")
    assert run(project) == {"passed": 1, "skipped": 0, "failed": 0, "errors": 4}
    monkeypatch.setenv("PRIORS_DATA", str(project.path))
    monkeypatch.setenv("PRIORS_PARITY", str(project.path))
    assert run(project) == {"passed": 4, "skipped": 0, "failed": 1, "errors": 0}


def test_names_a_folder_that_does_not_exist(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRIORS_DATA", "nowhere")
    result = project.runpytest_subprocess()
    result.stderr.fnmatch_lines(["*PRIORS_DATA names a folder that does not exist: nowhere"])
