"""The file of callers: who is found, and what is wrong with a file, in one line that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from ancestral_server.access.callers import MOST_CALLERS, Callers, hashed
from ancestral_server.access.quota import Quota
from ancestral_server.errors import StartupError

A, B = hashed("a"), hashed("b")


def write(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "callers.toml"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_who_brings_a_token_or_a_certificate_is_found(tmp_path: Path) -> None:
    text = f"""
        [callers.photos]
        roles = ["infer"]
        tokens = ["{A}", "{B.upper().replace("SHA", "sha")}"]
        quota = {{ images_per_second = 5, in_flight = 2 }}
        [callers.ops]
        roles = ["admin", "observe"]
        certificates = ["ops.example", "spiffe://example/ops"]
        [anonymous]
        roles = ["health"]
    """
    callers = Callers.read(write(tmp_path, text, 0o640))
    photos = callers.of_token("a")
    assert photos is not None
    assert photos is callers.of_token("b")
    assert (photos.name, set(photos.roles)) == ("photos", {"infer"})
    assert photos.quota == Quota(images_per_second=5, in_flight=2)
    assert callers.of_token("c") is None
    ops = callers.of_names(["somebody", "spiffe://example/ops"])
    assert ops is not None
    assert ops.name == "ops"
    assert callers.of_names(["ops"]) is None
    assert callers.anonymous.roles == {"health"}
    assert callers.all.keys() == {"photos", "ops", "anonymous"}


ONE = f'[callers.a]\nroles = ["infer"]\ntokens = ["{A}"]\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names nobody, so that nobody could call; `ancestral-server token` makes an entry"),
        ("[callers", "is no TOML: "),
        ("\xff", "is not UTF-8"),
        (ONE + 'role = "infer"\n', "callers.a.role: there is no such setting; did you mean roles?"),
        (ONE + "quota = {calls_per_secnd = 1}\n", "callers.a.quota.calls_per_secnd: there is no such setting; did you"),
        (
            ONE + "quota = {in_flight = -1}\n",
            "callers.a.quota.in_flight: Input should be greater than or equal to 0 (got",
        ),
        (ONE + "quota = {streams = 1.5}\n", "callers.a.quota.streams: Input should be a valid integer"),
        (ONE + "quota = {calls_per_second = 0}\n", "callers.a.quota.calls_per_second: Input should be greater than 0"),
        (ONE + "quota = {calls_per_second = inf}\n", "callers.a.quota.calls_per_second: Input should be a finite"),
        (
            ONE + "quota = {calls_per_second = '9'}\n",
            "callers.a.quota.calls_per_second: Input should be a valid number",
        ),
        ("[callers.a]\n" + f'tokens = ["{A}"]', "callers.a.roles: is missing; one or more of infer, observe, admin"),
        ('[callers.a]\nroles = ["boss"]', "callers.a.roles.0: Input should be 'infer', 'observe', 'admin'"),
        ('[callers.a]\nroles = ["infer"]', "callers.a: has neither tokens nor certificates to be known by"),
        ('[callers.a]\nroles = ["infer"]\ntokens = ["secret"]', "callers.a.tokens.0: is no hash of a token, sha256:"),
        (f'[callers."a b"]\nroles = ["infer"]\ntokens = ["{A}"]', "callers.a b: a caller's name has 1 to 64 letters"),
        (f'[callers.anonymous]\nroles = ["infer"]\ntokens = ["{A}"]', "callers.anonymous: who brings nothing is"),
        (ONE + ONE.replace(".a]", ".b]"), "callers.b.tokens[0]: is also that of callers.a; who calls has to be clear"),
        (
            "".join(f'[callers.c{n}]\nroles = ["infer"]\ncertificates = ["{n}"]\n' for n in range(MOST_CALLERS + 1)),
            f"names {MOST_CALLERS + 1} callers, may name {MOST_CALLERS}",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "callers.toml"
    path.write_bytes(text.encode("latin-1"))
    path.chmod(0o600)
    with pytest.raises(StartupError) as caught:
        Callers.read(path)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"--callers {path}: {said}"), line
    # Whatever somebody took for a hash may be the token itself.
    assert "secret" not in line


def test_twice_the_same_token_of_one_caller_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, f'[callers.a]\nroles = ["infer"]\ntokens = ["{A}", "{A}"]')
    with pytest.raises(StartupError, match=r"callers\.a\.tokens\[1\]: is also that of callers\.a"):
        Callers.read(path)


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o620, 0o644, 0o777])
def test_a_file_that_others_can_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path, ONE, mode)
    with pytest.raises(StartupError) as caught:
        Callers.read(path)
    assert str(caught.value) == (f"--callers {path}: others can read or change it (mode {mode:04o}); chmod 600 {path}")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="cannot be read: No such file or directory"):
        Callers.read(tmp_path / "none")
