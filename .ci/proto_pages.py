"""Writes the reference of the protos from their comments: `protos/reference.md`, in plain Markdown.

`python .ci/proto_pages.py [FOLDER]` writes the page below FOLDER, this repository unless it says otherwise.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import grpc_tools
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

ROOT = Path(__file__).parents[1]
PAGE = "protos/reference.md"
# Google's own protos, which these import.
GOOGLE = Path(grpc_tools.__file__).parent / "_proto"

# Where something stands in a file, by which its comment is found.
Place: TypeAlias = "tuple[int, ...]"
# Numbers of fields in descriptor.proto.
SERVICE, METHOD, MESSAGE, FIELD, NESTED, ENUM, NESTED_ENUM, VALUE = 6, 2, 4, 2, 3, 5, 4, 2
REPEATED = FieldDescriptorProto.LABEL_REPEATED


def files() -> list[FileDescriptorProto]:
    """The protos of this repository, with their comments, by name."""
    names = sorted(str(path.relative_to(ROOT / "protos")) for path in (ROOT / "protos").rglob("*.proto"))
    with tempfile.NamedTemporaryFile() as written:
        paths, out = (f"-I{ROOT / 'protos'}", f"-I{GOOGLE}"), f"--descriptor_set_out={written.name}"
        code = protoc.main(["protoc", *paths, "--include_source_info", out, *names])
        assert code == 0, "protoc says why"
        return list(FileDescriptorSet.FromString(Path(written.name).read_bytes()).file)


class File:
    """What the page says of a file."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self.file = file
        self._comments = {
            tuple(place.path): " ".join(place.leading_comments.split()) for place in file.source_code_info.location
        }

    def lines(self) -> Iterator[str]:
        yield from ("", f"## {self.file.name}")
        for i, service in enumerate(self.file.service):
            yield from self._headed(service.name, (SERVICE, i))
            for j, method in enumerate(service.method):
                asked, given = self._type(method.input_type), self._type(method.output_type)
                asked = f"stream of {asked}" if method.client_streaming else asked
                given = f"stream of {given}" if method.server_streaming else given
                yield f"- **{method.name}**: {asked} → {given}. {self._comments[SERVICE, i, METHOD, j]}"
        for i, message in enumerate(self.file.message_type):
            yield from self._message(message, (MESSAGE, i), message.name)
        yield from self._enums(self.file.enum_type, (ENUM,), "")

    def _message(self, message: Any, place: Place, name: str) -> Iterator[str]:
        yield from self._headed(name, place)
        maps = {nested.name: nested for nested in message.nested_type if nested.options.map_entry}
        for i, field in enumerate(message.field):
            kind = self._kind(field, maps)
            chosen = field.HasField("oneof_index") and not field.proto3_optional
            of = f", one of `{message.oneof_decl[field.oneof_index].name}`" if chosen else ""
            yield f"- `{field.name}` = {field.number}, {kind}{of}. {self._comments[(*place, FIELD, i)]}"
        for i, nested in enumerate(message.nested_type):
            if nested.name not in maps:
                yield from self._message(nested, (*place, NESTED, i), f"{name}.{nested.name}")
        yield from self._enums(message.enum_type, (*place, NESTED_ENUM), f"{name}.")

    def _enums(self, enums: Sequence[Any], place: Place, prefix: str) -> Iterator[str]:
        for i, enum in enumerate(enums):
            yield from self._headed(f"{prefix}{enum.name}", (*place, i))
            for j, value in enumerate(enum.value):
                yield f"- `{value.name}` = {value.number}. {self._comments[(*place, i, VALUE, j)]}"

    def _headed(self, name: str, place: Place) -> Iterator[str]:
        yield from ("", f"### {name}", "", self._comments[place], "")

    def _kind(self, field: FieldDescriptorProto, maps: dict[str, Any]) -> str:
        name = field.type_name.rpartition(".")[2]
        if name in maps:
            key, value = (self._kind(part, {}) for part in maps[name].field)
            return f"map of {key} to {value}"
        one = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
        one = self._type(field.type_name) if field.type_name else one
        if field.label == REPEATED:
            return f"repeated {one}"
        return f"optional {one}" if field.proto3_optional else one

    def _type(self, name: str) -> str:
        """A type as it is called in this file."""
        return f"`{name.removeprefix('.').removeprefix(f'{self.file.package}.')}`"


def page() -> str:
    lines = [
        "# Reference of the protos",
        "",
        "Written by `make generated` from the comments of the protos: what is wrong here is mended there. Numbers are",
        "those of fields on the wire.",
    ]
    for file in files():
        lines += File(file).lines()
    return "\n".join(lines).replace("\n\n\n", "\n\n").rstrip() + "\n"


def main(folder: Path) -> None:
    target = folder / PAGE
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
