"""`ancestral-server token`: what it makes is what the server takes."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from ancestral_server import token
from ancestral_server.access.callers import Callers
from ancestral_server.command_line import WrongUsage


def test_a_token_and_its_entry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert token.main(["photos"]) == 0
    said = capsys.readouterr()
    made = re.search(r"shown this once: (ancestral_\S{43})\n", said.err)
    assert made is not None
    path = tmp_path / "callers.toml"
    path.touch(0o600)
    path.write_text(said.out)
    found = Callers.read(path).of_token(made[1])
    assert found is not None
    assert (found.name, set(found.roles)) == ("photos", {"infer"})
    # Only its hash is there.
    assert made[1] not in said.out


def test_entries_are_appended_and_tokens_are_files_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    callers, out = tmp_path / "callers.toml", tmp_path / "ops.token"
    assert token.main(["photos", "--callers", str(callers)]) == 0
    roles = ["--role", "admin", "--role", "observe", "--role", "admin"]
    assert token.main(["ops", *roles, "--callers", str(callers), "--out", str(out)]) == 0
    for path in (callers, out):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = Callers.read(callers)
    assert found.all.keys() == {"photos", "ops", "anonymous"}
    ops = found.of_token(out.read_text().strip())
    assert ops is not None
    assert set(ops.roles) == {"admin", "observe"}
    assert out.read_text().strip() not in "".join(capsys.readouterr())
    before = callers.read_text()
    # What is there is neither written over nor spoilt.
    assert token.main(["more", "--out", str(out)]) == 1
    assert capsys.readouterr().err == f"ancestral-server: {out}: cannot be written: File exists\n"
    with pytest.raises(WrongUsage, match=r"NAME: ops is in .* already; leave --callers out"):
        token.main(["ops", "--callers", str(callers)])
    assert callers.read_text() == before
    # A table cannot be added to what is written like this.
    callers.write_text(f"callers = {{photos = {{roles = ['infer'], tokens = ['sha256:{'0' * 64}']}}}}")
    with pytest.raises(WrongUsage, match=r"--callers: .*: a table \[callers\.more\] cannot be added to it"):
        token.main(["more", "--callers", str(callers)])
    callers.write_text("[callers")
    with pytest.raises(WrongUsage, match=r"--callers: .*callers\.toml: "):
        token.main(["more", "--callers", str(callers)])


@pytest.mark.parametrize("name", ["a b", "", "a.b", "x" * 65, "anonymous", "ü"])
def test_a_name_that_no_file_could_have_is_refused(name: str) -> None:
    with pytest.raises(WrongUsage, match="NAME: must have 1 to 64 letters, digits, - and _"):
        token.main([name])


def test_a_role_that_there_is_not_is_refused() -> None:
    with pytest.raises(WrongUsage, match="--role: invalid choice: 'boss'"):
        token.main(["a", "--role", "boss"])
