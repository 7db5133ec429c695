"""The guide that `help(collabopt)` shows works as it stands."""

import doctest
import shutil

import collabopt
from collabopt.config import loading
from collabopt.config.stages import STAGES


def test_every_example_of_the_guide_works(searched_small, small, tmp_path, monkeypatch):
    shutil.copytree(searched_small / "stages", tmp_path / "data" / "stages")
    monkeypatch.setattr(loading, "DATA", tmp_path / "data")
    monkeypatch.setattr(loading, "REPORTS", tmp_path / "reports")
    monkeypatch.chdir(tmp_path)
    shutil.copy(small, tmp_path / "digits.yaml")  # in place of the one that takes longer
    monkeypatch.setattr(loading, "EXPERIMENTS", tmp_path)
    before = dict(STAGES)
    try:
        guide = doctest.DocTestParser().get_doctest(collabopt.__doc__, {}, "collabopt", None, None)
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        runner.run(guide)
    finally:
        STAGES.clear()
        STAGES.update(before)
    assert (runner.tries, runner.failures) == (len(guide.examples), 0)
    assert runner.tries > 10
