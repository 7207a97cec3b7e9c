"""Whatever is passed to a public method: taken for what it is, or an InvalidArgument that names the argument."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.preprocessing import FunctionTransformer

from ancestral_client import AncestralError, Client, InvalidArgument, Overloaded, Unavailable, _arguments, _arrays
from running import ServerProcess

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 4, 3, 1), dtype=np.uint8)
MASK = np.eye(4, 3, dtype=bool)

NO_NUMBERS: tuple[Any, ...] = (
    "2",
    b"2",
    [2],
    (2,),
    {},
    object(),
    2j,
    np.complex64(2),
    np.array([2]),
    np.timedelta64(2, "s"),
)
NO_WHOLE_NUMBERS = (*NO_NUMBERS, 1.9, np.float32(2.7), Decimal("1.5"), math.nan, math.inf, -math.inf, 10**400, -1)
NO_ARRAYS: tuple[Any, ...] = (
    [[1, 2], [3]],
    [np.zeros((4, 3), np.uint8), np.zeros((3, 4), np.uint8)],
    "2",
    None,
    {},
    object(),
    torch.zeros(4, 3, dtype=torch.bfloat16),
    np.ma.masked_array(IMAGES[0], IMAGES[0] > 9),
    np.zeros((0, 4, 3, 1)),
    [],
    1j,
)
NO_IMAGES = (
    *NO_ARRAYS,
    5,
    IMAGES / 255,
    IMAGES.astype(int),
    IMAGES > 9,
    [IMAGES.tolist()],
    Image.new("F", (3, 4), 0.5),
)
NO_MASKS = tuple(value for value in (*NO_ARRAYS, IMAGES, MASK.astype(int)) if value is not None)
NO_LABELS = tuple(value for value in (*NO_ARRAYS, 1.5, [0.5], [True], [-1], [2**31], [[1]]) if value is not None)
NO_LATENTS = (*NO_ARRAYS, [True], [math.nan], [math.inf], [1e39], np.zeros((1, 1, 1)), ["1"])
NO_NAMES: tuple[Any, ...] = (None, 5, b"tally", ["tally"], {}, "\udcff", np.array(["tally"]))
NO_FLAGS: tuple[Any, ...] = ("yes", 2, None, [], 0.5, np.array([True, False]))
NO_SECONDS = (*NO_NUMBERS, math.nan, -1, -math.inf)
NO_TIMEOUTS = (*NO_SECONDS, 0)

WRONG: dict[str, tuple[Any, ...]] = {
    "model": NO_NAMES,
    "name": NO_NAMES,
    "n": (*NO_WHOLE_NUMBERS, None, 0, 2**31),
    "message_size": (*NO_WHOLE_NUMBERS, 0, 2**31),
    "draws": (*NO_WHOLE_NUMBERS, None, 0, 2**31),
    "version": (*NO_WHOLE_NUMBERS, None, 2**63, float(2**53 + 2)),
    "seed": (*NO_WHOLE_NUMBERS, 2**63, float(2**53 + 2), np.float32(2**25), np.float16(4096)),
    "draw_seed": (*NO_WHOLE_NUMBERS, 2**63, float(2**53 + 2)),
    "first_index": (*NO_WHOLE_NUMBERS, None, 2**63),
    "label": (*NO_WHOLE_NUMBERS, 2**31),
    "labels": NO_LABELS,
    "temperature": (*NO_NUMBERS, math.nan, math.inf, -1),
    "timeout": NO_TIMEOUTS,
    "retry_seconds": NO_SECONDS,
    "hedge_seconds": tuple(value for value in (*NO_TIMEOUTS, math.inf) if value is not None),
    "max_message_bytes": (*NO_WHOLE_NUMBERS, None, 0, 2**31),
    "priority": ("high", None, 1, [], {}),
    "bulk_priority": ("high", None, 1, [], {}),
    "images": NO_IMAGES,
    "given": tuple(value for value in NO_IMAGES if value is not None),
    "known": NO_MASKS,
    "latents": NO_LATENTS,
    "scale": (*NO_NUMBERS, math.nan, math.inf, -1, 0, 10**400),
    "steps": (*NO_WHOLE_NUMBERS, None, 0, 10_001),
    "span": (*NO_NUMBERS, None, math.nan, math.inf, -1, 0),
    "path": ("round", None, 1, [], {}),
    "dimension": (*NO_WHOLE_NUMBERS, None, 2),
    "dimensions": (None, 1, "01", (0,), (0, 0), (0, 2), (0, -1), (0, 0.5), (0, "1"), ([], [])),
    **dict.fromkeys(("image", "first", "last"), (*NO_IMAGES, IMAGES)),
    "include_map": NO_FLAGS,
    "include_variance": NO_FLAGS,
    "progress": NO_FLAGS,
    "transport": (5, "fake", [], {}),
    "compression": ("zip", None, 1, True, [], {}),
    "proxy": ("proxy.example", "https://p:1", "http://p:port", "http://p:1/x", "p:99999", 5, b"p:1", [], {}),
}
# What an argument is called on the wire.
FIELDS = {"n": "count", "bulk_priority": "priority"}
RIGHT: dict[str, Any] = {"model": "tally", "name": "tally", "n": 1, "images": IMAGES, "latents": np.zeros((1, 2))}
RIGHT |= {"image": IMAGES[0], "first": IMAGES[0], "last": IMAGES[1], "dimension": 0, "given": IMAGES, "known": MASK}
METHODS = (
    "sample",
    "sample_stream",
    "encode",
    "encode_stream",
    "decode",
    "features",
    "classify",
    "score",
    "score_stream",
    "complete",
    "reconstruct",
    "interpolate",
    "traverse",
    "manifold",
)
CASES = [
    (method, argument)
    for method in (*METHODS, "models", "model", "load", "unload")
    for argument in list(inspect.signature(getattr(Client, method)).parameters)[1:]
]


@pytest.fixture
def client(toy_server: ServerProcess) -> Client:
    return Client(toy_server.address)


def test_every_public_method_is_here() -> None:
    public = {name for name, value in vars(Client).items() if callable(value) and not name.startswith("_")}
    assert public - {"close"} == {*METHODS, "models", "model", "load", "unload"}
    assert {argument for _, argument in CASES} <= WRONG.keys()


def result_of(method: Callable[..., Any], **arguments: Any) -> Any:
    """What a call returns, or the first that a stream does."""
    result = method(**arguments)
    return next(result) if method.__name__.endswith("_stream") else result


@pytest.mark.parametrize(("method", "argument"), CASES, ids=lambda value: str(value))
def test_a_wrong_value_is_an_error_of_ours_that_names_the_argument(client: Client, method: str, argument: str) -> None:
    needed = {
        name: RIGHT[name]
        for name, parameter in inspect.signature(getattr(client, method)).parameters.items()
        if parameter.default is parameter.empty
    }
    if argument == "known":
        needed["given"] = IMAGES[0]
    for value in WRONG[argument]:
        if value is None and (argument == "timeout" or (method, argument) == ("complete", "n")):
            continue
        if argument == "images" and method.endswith("_stream") and isinstance(value, list | str | dict | torch.Tensor):
            continue  # an iterable of messages: below
        arguments = {**needed, argument: value}
        with pytest.raises(InvalidArgument) as caught:
            result_of(getattr(client, method), **arguments)
        error = caught.value
        field = FIELDS.get(argument, argument)
        assert str(error).startswith(f"{field}: "), (value, str(error))
        assert error.violations[0].field == field
        assert "\n" not in str(error)
        assert len(str(error)) < 300


@pytest.mark.parametrize(
    "argument",
    [
        *("timeout", "retry_seconds", "hedge_seconds", "priority", "bulk_priority", "max_message_bytes"),
        *("transport", "compression", "proxy"),
    ],
)
def test_so_is_a_wrong_setting_of_a_client(argument: str) -> None:
    for value in WRONG[argument]:
        with pytest.raises(InvalidArgument, match=f"^{FIELDS.get(argument, argument)}: "):
            Client("localhost:1", **{argument: value})


@pytest.mark.parametrize("message", [*NO_IMAGES, "no array"], ids=lambda value: type(value).__name__)
def test_a_wrong_message_of_a_stream_is_told_in_its_place(client: Client, message: Any) -> None:
    with client.encode_stream("tally", [IMAGES, message, IMAGES]) as parts:
        assert len(next(parts).mean) == 2
        with pytest.raises(InvalidArgument, match=r"^message 1: images: ") as caught:
            next(parts)
        assert caught.value.index == 1
        assert len(next(parts).mean) == 2


@pytest.mark.parametrize(
    "seven",
    [
        7,
        7.0,
        np.int8(7),
        np.uint64(7),
        np.float16(7),
        np.array(7),
        np.array(7.0),
        torch.tensor(7),
        Fraction(7),
        Decimal(7),
    ],
    ids=lambda value: f"{type(value).__name__}-{getattr(value, 'dtype', '')}",
)
def test_what_stands_for_a_whole_number_is_taken(client: Client, seven: Any) -> None:
    expected = client.sample("tally", 7, seed=7, first_index=7).images
    found = client.sample("tally", seven, seed=seven, first_index=seven, timeout=seven, temperature=1, version=1)
    assert np.array_equal(found.images, expected)
    assert found.seed == found.first_index == 7


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_outside_the_wire_are_refused(seed: int) -> None:
    with pytest.raises(InvalidArgument, match="draw_seed: is"):
        _arguments.seed_of("draw_seed", seed)


def test_timeouts() -> None:
    assert _arguments.timeout_of(2) == 2.0
    assert _arguments.timeout_of(math.inf) is None
    for wrong in (0, -1, math.nan):
        with pytest.raises(InvalidArgument, match="timeout: is"):
            _arguments.timeout_of(wrong)


def test_limits_of_whole_numbers() -> None:
    assert _arguments.seed_of("seed", 2**63 - 1) == 2**63 - 1
    assert _arguments.seed_of("seed", np.uint64(2**63 - 1)) == 2**63 - 1
    assert _arguments.seed_of("seed", float(2**53)) == 2**53
    assert _arguments.seed_of("seed", np.float32(2**24)) == 2**24
    assert _arguments.seed_of("seed", True) == _arguments.seed_of("seed", np.True_) == 1
    with pytest.raises(InvalidArgument, match=r"seed: is 9007199254740994.0, a float that may have been rounded"):
        _arguments.seed_of("seed", float(2**53 + 2))
    with pytest.raises(InvalidArgument, match=r"count: is 2.7, no whole number; must be at least 1"):
        _arguments.count_of("count", 2.7)
    with pytest.raises(InvalidArgument, match=r"draws: is 2147483648; must be at least 1, and fit into 32 bits"):
        _arguments.count_of("draws", 2**31)
    with pytest.raises(InvalidArgument, match=r"version: is 9223372036854775808; must .* and fit into 64 bits"):
        _arguments.version_of(2**63)
    with pytest.raises(
        InvalidArgument, match=r"timeout: is '5', which is no number but a str; must be above 0 seconds"
    ):
        _arguments.timeout_of("5")


@pytest.mark.parametrize(
    "timeout", [1e9, 1e10, 1e19, 1e300, 10**400, math.inf], ids=["1e9", "1e10", "1e19", "1e300", "1e400", "inf"]
)
def test_a_deadline_in_the_far_future_has_not_passed(client: Client, timeout: float) -> None:
    """Above 2^63 nanoseconds gRPC's clock overflows."""
    assert client.sample("tally", 1, timeout=timeout).images.shape == (1, 4, 3, 1)


class Frame:
    """A pandas.DataFrame as numpy sees it."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.array


class Exchanged:
    """An array of a library that speaks DLPack and nothing of numpy's, as jax's on another device."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def __dlpack__(self, **options: Any) -> Any:
        return self._tensor.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._tensor.__dlpack_device__()


@pytest.mark.parametrize(
    "make",
    [
        lambda: list(IMAGES),
        lambda: torch.from_numpy(IMAGES),
        lambda: [torch.from_numpy(image) for image in IMAGES],
        lambda: tuple(Image.fromarray(image[..., 0]) for image in IMAGES),
        lambda: Frame(IMAGES),
        lambda: IMAGES[:, ::-1][:, ::-1],
        lambda: np.asfortranarray(IMAGES),
        lambda: np.ma.masked_array(IMAGES),
        lambda: IMAGES.data,
        lambda: Exchanged(torch.from_numpy(IMAGES)),
        lambda: [Exchanged(torch.from_numpy(image)) for image in IMAGES],
        lambda: [Image.fromarray(image[..., 0]).convert("RGB") for image in IMAGES],
        lambda: [
            Image.fromarray(image[..., 0]).convert(mode) for image, mode in zip(IMAGES, ("L", "RGB"), strict=True)
        ],
        lambda: torch.from_numpy(IMAGES).requires_grad_(False).permute(0, 3, 1, 2).permute(0, 2, 3, 1),
    ],
    ids=[
        "list",
        "tensor",
        "tensors",
        "pictures",
        "frame",
        "views",
        "fortran",
        "nothing masked",
        "buffer",
        "DLPack",
        "DLPacks",
        "RGB pictures",
        "grey and RGB pictures",
        "permuted",
    ],
)
def test_images_come_in_many_forms(client: Client, make: Callable[[], Any]) -> None:
    assert np.array_equal(client.encode("tally", make()).mean, client.encode("tally", IMAGES).mean)


def test_palettes_of_pictures_are_not_taken_for_grey() -> None:
    image: Any = Image.frombytes("P", (3, 4), (255 - IMAGES[0]).tobytes())
    image.putpalette([255 - index for index in range(256) for _ in range(3)])
    assert np.array_equal(_arrays.image_array("images", [image])[0, ..., :1], IMAGES[0])
    image.info["transparency"] = int(255 - IMAGES[0, 0, 0, 0])
    assert _arrays.image_array("images", image)[0, 0].tolist() == [255, 255, 255], (
        "the ground is white, as in a training"
    )
    float_picture: Any = Image.fromarray(IMAGES[0, ..., 0].astype(np.float32) / 2)
    with pytest.raises(InvalidArgument, match=r"^images: is a picture that holds 32-bit floats from .*; scale them"):
        _arrays.image_array("images", float_picture)


def test_tensors_are_taken_off_their_graph() -> None:
    latents = torch.ones(2, 2, requires_grad=True) * 2
    expected = np.full((2, 2), 2, np.float32)
    for given in (latents, [latents[0], latents[1]], [list(row) for row in latents]):
        assert np.array_equal(_arrays.latent_batch(given), expected)
    assert _arrays.labels_of(torch.tensor([1, 2])) == [1, 2]
    assert _arguments.temperature_of(torch.tensor(0.5, requires_grad=True)) == 0.5


def encode(images: np.ndarray, client: Client) -> np.ndarray:
    return client.encode("tally", images).mean


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda client: pickle.loads(pickle.dumps(client))],
    ids=["copy", "deep", "pickle"],
)
def test_a_client_can_be_copied(toy_server: ServerProcess, copied: Callable[[Client], Client]) -> None:
    with Client(
        toy_server.address, timeout=7, retry_seconds=3, hedge_seconds=1, priority="batch", max_message_bytes=2**20
    ) as client:
        client.timeout = 8
        other = copied(client)
    with other:  # the first one is closed
        assert (other.address, other.timeout) == (client.address, 8)
        assert other.__getstate__() == client.__getstate__()
        assert other.encode("tally", IMAGES).mean.shape == (2, 2)


def test_a_client_may_be_part_of_an_estimator(client: Client) -> None:
    encoder = FunctionTransformer(encode, kw_args={"client": client})
    expected = encoder.transform(IMAGES)
    for other in (clone(encoder), pickle.loads(pickle.dumps(encoder))):
        assert np.array_equal(other.transform(IMAGES), expected)


def test_what_calls_return_and_raise_can_be_pickled(client: Client) -> None:
    samples = pickle.loads(pickle.dumps(client.sample("tally", 2, seed=1)))
    assert samples.images.shape == (2, 4, 3, 1)
    assert pickle.loads(pickle.dumps(client.model("tally"))) == client.model("tally")
    with pytest.raises(AncestralError) as caught:
        client.sample("tally", 0)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), vars(again), str(again)) == (InvalidArgument, vars(caught.value), str(caught.value))
    assert pickle.loads(pickle.dumps(Overloaded("x", retry_after=2.0))).retry_after == 2.0


def test_a_closed_client_says_so(client: Client) -> None:
    client.close()
    client.close()
    for call in (client.models, lambda: client.encode("tally", IMAGES), lambda: client.sample_stream("tally", 1)):
        with pytest.raises(Unavailable, match="this client was closed"):
            call()
