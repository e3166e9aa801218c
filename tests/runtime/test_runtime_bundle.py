"""Damaged, foreign, truncated and hostile bundles are refused, each with a code and a mend."""

import copy
import json
import os
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_bundles as tiny

from latentc.files.shipped import codes
from latentc_runtime import BundleError, bundle, load
from latentc_runtime.bundle import open_bundle, write_manifest
from latentc_runtime.hashes import hash_file
from latentc_runtime.manifest import EngineCall, FileEntry, Loop, Reference, Rows
from latentc_runtime.manifest_json import bytes_from_manifest, manifest_from_bytes
from latentc_runtime.sources import Input, RandomSource


@pytest.fixture
def path(tmp_path):
    return tiny.loop_bundle(tmp_path / "bundle")


def refused(path, code, words=None):
    with pytest.raises(BundleError, match=words) as raised:
        load(path, device="cpu", threads=1)
    assert raised.value.code == code in codes()
    assert raised.value.help
    return raised.value


def files_of(path):
    return sorted(p for p in path.rglob("*") if p.is_file())


def test_one_flipped_byte_anywhere_is_found(path):
    """Every byte of every file, the manifest's too."""
    bundle.open_bundle(path)
    checked = 0
    for file in files_of(path):
        content = file.read_bytes()
        for position in range(0, len(content), max(1, len(content) // 150)):
            for flip in (0x01, 0x20):
                changed = bytearray(content)
                changed[position] ^= flip
                file.write_bytes(changed)
                with pytest.raises(BundleError) as raised:
                    open_bundle(path)
                assert raised.value.code in ("E0601", "E0602", "E0603", "E0604", "E0605"), (file, position)
                checked += 1
        file.write_bytes(content)
    assert checked > 600
    open_bundle(path)


def test_truncated_and_missing_files_are_found(path):
    for file in files_of(path):
        content = file.read_bytes()
        for length in (0, 1, len(content) // 2, len(content) - 1):
            file.write_bytes(content[:length])
            with pytest.raises(BundleError):
                open_bundle(path)
        file.unlink()
        with pytest.raises(BundleError):
            open_bundle(path)
        file.write_bytes(content)
    refused(path / "sample.onnx", "E0601", "not a bundle")


def test_what_is_no_bundle(path, tmp_path):
    refused(tmp_path / "nothing", "E0601", "no bundle at")
    refused(tmp_path, "E0601", "no manifest.json")
    refused("a\0b", "E0601")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    for text in (b'{"model": "another tool"}', b"[]", b"3"):
        (foreign / "manifest.json").write_bytes(text)
        refused(foreign, "E0601", "no `format`")
    for text in (
        b"",
        b"\xff\xfe",
        b"{" * 9,
        b"[" * 100_000,
        b'{"format": NaN}',
        b"9" * 9999,
        b'{"a":1,"a":2}',
    ):
        (foreign / "manifest.json").write_bytes(text)
        refused(foreign, "E0602")


@pytest.mark.parametrize("format", [4, 2, 1, 0, -1, "3", 3.0, True, None, [3]])
def test_other_formats_are_refused(path, format):
    document = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**document, "format": format}))
    error = refused(path, "E0603", "this runtime reads format 3")
    assert ("pip install -U" in error.help) == (format == 4)
    assert ("latentc compile spec.yaml --weights FILE" in error.help) == (format != 4)


def test_a_bundle_of_an_older_format_says_how_to_compile_it_again(path):
    document = json.loads((path / "manifest.json").read_text())
    weights = {"file": "dit.pt", "names": "official", "key": "ema"}
    (path / "manifest.json").write_text(json.dumps({**document, "format": 2, "weights": weights}))
    error = refused(path, "E0603", "format 2")
    assert "latentc compile spec.yaml --weights dit.pt --names official --key ema -o BUNDLE" in error.help


def with_document(path, change):
    """Change the JSON of a manifest and give it a true checksum."""
    from latentc_runtime import manifest_json as m

    document = json.loads((path / "manifest.json").read_text())
    del document["checksum"]
    change(document)
    document["checksum"] = "0" * 64
    text = (json.dumps(document, indent=1) + "\n").encode()
    digest = m.hashlib.sha256(text).hexdigest().encode()
    (path / "manifest.json").write_bytes(m._with_checksum(text, digest))


def setter(place, value):
    def change(document):
        *parents, last = place
        for key in parents:
            document = document[key]
        if value is ...:
            del document[last]
        else:
            document[last] = value

    return change


S = ("programs", 0)
OUTPUT = (*S, "outputs", 0, "output")
CONDITION = ("conditions", 0)
SETTING = ("settings", 0)
SCHEMA = [
    (("name",), 3, "name: expected text, got 3"),
    (("name",), ..., "name: the field is missing"),
    (("colour",), "red", "colour: unknown field"),
    (("family",), "diffusion", "family: unknown field"),
    ((*CONDITION, "form"), "colour", r'conditions\[0\].form: expected one of "label", "array", "tokens"'),
    ((*CONDITION, "classes"), True, "classes: expected a whole number, got true"),
    ((*CONDITION, "classes"), 0, r"conditions\[0\]: classes: expected 1 or more"),
    ((*CONDITION, "encoding"), "one_hot", r"shape: expected \[classes\]"),
    ((*CONDITION, "mask"), True, "mask: expected a shape with a first axis"),
    ((*CONDITION, "default"), [1, 2], r"default: expected a number, or numbers of shape \[\]"),
    ((*CONDITION, "name"), "mel", "there is no condition `class`"),
    (("settings",), [], "there is no setting `guidance`"),
    ((*SETTING, "default"), None, "default: expected a number"),
    ((*SETTING, "default"), 10**309, "finite"),
    ((*SETTING, "low"), 5.0, "default: expected a number from 5 to inf"),
    ((*SETTING, "high"), 3.0, "default: expected a number from -inf to 3"),
    (SETTING, {"name": "guidance", "default": 4.0, "low": 4.0, "high": 4.0, "closed": False}, "expected `low` below"),
    (("versions",), [], "versions: expected an object"),
    (("versions", "onnx"), None, "versions.onnx: expected text, got null"),
    ((*OUTPUT, "shape"), [1, "2"], r"output.shape\[1\]: expected a whole number"),
    ((*OUTPUT, "shape"), [0], "output.shape: expected sizes"),
    ((*OUTPUT, "range"), [0, 1, 2], "output.range: expected a list of 2"),
    ((*OUTPUT, "range"), [1, 0], "output.range"),
    ((*OUTPUT, "range"), None, "expected the range of image samples"),
    ((*OUTPUT, "axes"), ["height", "width"], "expected the name of each axis"),
    ((*OUTPUT, "medium"), "picture", "output.medium: expected one of"),
    ((*OUTPUT, "medium"), "audio", "expected the sampling rate"),
    ((*OUTPUT, "grid"), [2, 3], "does not hold"),
    ((*OUTPUT, "grid"), [], "does not hold"),
    ((*OUTPUT, "shape"), [1, 1 << 30, 1 << 30], r"output.shape: expected at most 16 axes and 1099511627776 numbers"),
    ((*OUTPUT, "shape"), [1] * 40, "expected at most 16 axes"),
    ((*OUTPUT, "axes", 0), "colour", "axes: expected axes of image samples, once each: channel, height, width"),
    ((*OUTPUT, "axes", 0), "width", "once each"),
    ((*OUTPUT, "rate"), 1e-9, "rate: expected 0.01 to 1e\\+07 per second"),
    ((*CONDITION, "default"), 10**400, "default: expected a number"),
    ((*CONDITION, "classes"), 1 << 40, "classes: expected at most 2147483648"),
    ((*S, "inputs", 0, "shape"), ["B", *[1] * 40], "expected at most 16 axes"),
    ((*S, "inputs", 3, "source", "rows"), 1 << 40, "rows|shape"),
    (("files", "sample.onnx", "sha256"), "0", "64 hex digits"),
    (("references",), {"weights/tiny.bin": {"sha256": "0" * 64, "size": 1, "location": "/a"}}, "also in `files`"),
    (("programs",), [], "at least one"),
    ((*S, "steps"), "ten", r'programs\[0\].steps: expected a whole number, got "ten"'),
    ((*S, "steps"), 0, r"programs\[0\].steps: expected 1 or more"),
    ((*S, "max_batch"), 0, "max_batch"),
    ((*S, "name"), 3, "name: expected text"),
    ((*S, "outputs"), [], "outputs: expected at least one"),
    ((*S, "outputs", 0, "variable"), "y_0", "nothing sets `y_0`"),
    ((*S, "inputs", 0, "name"), "y", "a second input `y`"),
    ((*S, "inputs", 0, "shape"), [2, 1, 2, 2], r"inputs\[0\].shape"),
    ((*S, "inputs", 0, "shape"), ["B", 1, 2, 1 << 62], r"inputs\[0\].shape: expected at most 1099511627776 numbers"),
    ((*S, "inputs", 1, "shape"), ["B", 1], r"inputs\[1\].shape"),
    ((*S, "inputs", 0, "shape", 0), None, "expected a whole number or text"),
    ((*S, "inputs", 0, "dtype"), "f99", "dtype"),
    ((*S, "inputs", 0, "source"), 3, "source: expected an object"),
    (
        (*S, "inputs", 0, "source", "kind"),
        "pink",
        r"inputs\[0\].source.kind: expected one of condition, setting, random",
    ),
    ((*S, "inputs", 3, "source", "rows"), 0, "rows|shape"),
    ((*S, "inputs", 3, "source", "distribution"), "cauchy", "distribution `cauchy`"),
    ((*S, "inputs", 3, "source", "parameters"), {"bound": 2}, "distribution `normal` takes nothing, not bound"),
    ((*S, "inputs", 1, "source", "part"), "mask", "the condition `class` has no mask"),
    ((*S, "program", 0, "op"), "exec", r"program\[0\].op: expected one of engine, loop"),
    ((*S, "program", 0, "op"), [], "op"),
    ((*S, "program", 0, "file"), "other.onnx", "`other.onnx` is not in `files`"),
    ((*S, "program", 0, "inputs", "x"), "z", "`z` is not set before"),
    ((*S, "program", 0, "outputs"), {"samples": "samples"}, "nothing sets `out`"),
]


@pytest.mark.parametrize(("place", "value", "message"), SCHEMA)
def test_manifests_that_are_wrong_name_the_field(path, place, value, message):
    with_document(path, setter(place, value))
    refused(path, "E0602", message)


def test_a_setting_may_have_one_value(path):
    with_document(path, setter(SETTING, {"name": "guidance", "default": 4.0, "low": 4.0, "high": 4.0}))
    (setting,) = load(path, device="cpu", threads=1).manifest.settings
    assert setting.allows([3.0, 4.0, 5.0]).tolist() == [False, True, False]


def test_programs_that_contradict_themselves(tmp_path):
    manifest = open_bundle(tiny.host_bundle(tmp_path / "host")).manifest
    entry = manifest.programs[0]
    loop = entry.program[0]
    late = EngineCall("engine", "step.onnx", {"x": "row"}, {"out": "next"})
    rows = Input("u", "f32", (2, "B"), RandomSource("uniform", "token", 2))
    cases = [
        ((replace(loop, trip=0),), "trip: expected 1"),
        ((replace(loop, tables={"a": (1, 2)}),), "tables.a: expected 3 rows"),
        ((replace(loop, tables={"a": (1, [2], 3)}),), "tables.a"),
        ((replace(loop, tables={"a": ("1", "2", "3")}),), "tables.a"),
        ((replace(loop, noise={"row": Rows("out", 0, (1,))}),), "noise.row.input"),
        ((replace(loop, noise={"row": Rows("u", 0, (1,))}),), "row 2 of an input that has 2"),
        ((replace(loop, noise={"row": Rows("n", 1, (1,))}),), "row 3 of an input that has 3"),
        ((replace(loop, noise={"row": Rows("n", 2, (-1,))}),), "none negative"),
        ((replace(loop, noise={"row": Rows("n", 0, (1, 1))}),), "1 strides"),
        ((replace(loop, carried=(("new", "x_next"),)),), "`new` is not set before the loop"),
        ((replace(loop, carried=(("out", "gone"),)),), "`gone` is not set in the loop"),
        ((Loop("loop", 2, (loop,)),), "2 strides"),
        ((loop, late), "`row` is not set"),
    ]
    for program, message in cases:
        bad = replace(entry, program=program, inputs=(*entry.inputs, rows))
        with pytest.raises(BundleError, match=message):
            write_manifest(tmp_path / "host", replace(manifest, programs=(bad,)))
    with pytest.raises(BundleError, match="same name and number of steps"):
        write_manifest(tmp_path / "host", replace(manifest, programs=(entry, entry)))
    open_bundle(tmp_path / "host")


HUGE = [1, 100_000, 100_000]
ODD = [
    None,
    -1,
    0,
    1 << 31,
    1 << 70,
    0.5,
    1e308,
    "",
    "\x1b[31m",
    [],
    {},
    True,
    HUGE,
    ["B", *HUGE[1:]],
    [1] * 300,
    {"a": 1},
]


def places(data, place=()):
    """The places of everything in JSON."""
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        yield (*place, key)
        if isinstance(value, dict | list):
            yield from places(value, (*place, key))


@pytest.mark.parametrize("kind", ["host_bundle", "token_bundle"])
def test_whatever_a_manifest_says_ends_in_a_sample_or_a_diagnostic(tmp_path, kind, monkeypatch):
    """Each of its values replaced by odd ones, some at each place: also what a server says of the bundle."""
    from latentc_runtime import memory
    from latentc_runtime.serve.metrics import Metrics
    from latentc_runtime.serve.models import open_models
    from latentc_runtime.serve.openapi import operation
    from latentc_runtime.serve.options import Options

    monkeypatch.setattr(memory, "total_memory", lambda: 2.0**30)
    path, options = getattr(tiny, kind)(tmp_path / "b"), Options()
    whole = json.loads((path / "manifest.json").read_text())
    codes_seen = set()
    for place in (p for p in places(whole) if p != ("checksum",)):
        # By the place's own name, so that a new field leaves the others' values as they are.
        for value in ODD[zlib.crc32(repr(place).encode()) % 4 :: 4]:

            def change(document, place=place, value=value):
                document.clear()
                document.update(copy.deepcopy(whole))
                del document["checksum"]
                setter(place, value)(document)

            with_document(path, change)
            try:
                (model,) = open_models([f"m={path}"], options, Metrics()).values()
                json.dumps([model.description(options), *(operation(model, options, m) for m in ("GET", "POST"))])
                model.pipeline.sample(seeds=[1], classes=[1])
            except BundleError as error:
                assert error.code in codes() and error.help, (place, value)
                codes_seen.add(error.code)
    assert {"E0602", "E0603"} < codes_seen  # and one of a file or an engine


HOSTILE = ["../x", "/etc/passwd", "a/../../x", "./a", "a//b", "a\\b", "C:x", "", "a\nb", "a/", "manifest.json"]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_leave_the_bundle(path, name):
    entry = {"sha256": "0" * 64, "size": 1}
    with_document(path, lambda d: d["files"].update({name: entry}))
    refused(path, "E0605")
    manifest = manifest_from_bytes((path / "manifest.json").read_bytes())
    with pytest.raises(BundleError):
        write_manifest(path, manifest)


def test_links_are_refused(path, tmp_path):
    real = tmp_path / "real"
    for name in ("weights", "weights/tiny.bin", "sample.onnx", "manifest.json"):
        shutil.move(path / name, real)
        (path / name).symlink_to(real)
        refused(path, "E0605", "symbolic link")
        (path / name).unlink()
        shutil.move(real, path / name)
    link = tmp_path / "link"
    link.symlink_to(path)
    open_bundle(link)


def test_a_folder_in_a_files_place(path):
    (path / "sample.onnx").unlink()
    (path / "sample.onnx").mkdir()
    refused(path, "E0604", "not a file")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_files_that_cannot_be_read(path):
    (path / "sample.onnx").chmod(0)
    refused(path, "E0604", "cannot be read")


def test_references_are_absolute(path):
    far = Reference("0" * 64, 1, "here.bin")
    manifest = open_bundle(path).manifest
    write_manifest(path, replace(manifest, references={"weights/far.bin": far}))
    refused(path, "E0605", "not an absolute path")


def test_without_verify_only_sizes_are_compared(path):
    weights = path / "weights" / "tiny.bin"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + b"\xff")
    open_bundle(path, verify=False)
    weights.write_bytes(content[:-1])
    with pytest.raises(BundleError):
        open_bundle(path, verify=False)


def test_a_manifest_survives_its_file(path):
    manifest = open_bundle(path).manifest
    assert manifest_from_bytes(bytes_from_manifest(manifest)) == manifest
    assert sorted(p.name for p in path.iterdir()) == ["manifest.json", "sample.onnx", "weights"]


def test_errors_tell_code_message_and_mend():
    error = BundleError("E0601", "no bundle", "make one")
    assert str(error) == "error[E0601]: no bundle\n  help: make one"
    assert str(BundleError("E0601", "no bundle")) == "error[E0601]: no bundle"
    assert hash_file(__file__) == FileEntry(hash_file(__file__).sha256, Path(__file__).stat().st_size)
