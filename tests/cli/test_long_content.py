"""`sample_long.py --label` and `--prompt` reach the options of a long video."""

import pytest

from lvdm.cli.sample_long import parser, read_long
from lvdm.sampling.options import LongOptions


@pytest.mark.parametrize(("words", "options"), [(["--label", "2"], {"label": 2}), (["--prompt", "a dog"], {"prompt": "a dog"})])
def test_a_class_or_text_of_a_long_video(words: list[str], options: dict[str, object]) -> None:
    assert LongOptions(**read_long(parser().parse_args(["--predict", "m", *words]))) == LongOptions(**options)


def test_one_of_both_at_most(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["--predict", "m", "--label", "2", "--prompt", "a dog"])
    assert "not allowed with argument" in capsys.readouterr().err
