"""Class names in requests: numbers, names and synonyms, and what is said of others."""

import pytest
import tiny_bundles as tiny

from latentc_runtime import BundleError, load
from latentc_runtime.class_names import LONGEST, class_from_name, classes_from_text, is_name, title
from latentc_runtime.sources import Condition, RequestError

NAMES = (
    "tench, Tinca tinca",
    "golden retriever",
    "Labrador retriever",
    "crane",
    "crane",
    "missile",
    "projectile, missile",
    "7",
    "tabby, tabby cat",
    "jack-o'-lantern",
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("all", list(range(10))),
        ("0-2,7", [0, 1, 2, 7]),
        (" 3 , 4 - 5 ", [3, 4, 5]),
        ("golden_retriever,TABBY  cat", [1, 8]),
        ("Tinca tinca,tench", [0, 0]),
        ('"tench, Tinca tinca",2', [0, 2]),
        ("missile", [5]),  # the whole name of one class, a synonym of another
        ("projectile", [6]),
        ('7,"7"', [7, 7]),
        ("jack-o'-lantern", [9]),
    ],
)
def test_texts_mix_names_and_numbers(text, found):
    assert classes_from_text(text, 10, NAMES) == found


@pytest.mark.parametrize(
    ("text", "message", "help"),
    [
        ("crane", "ambiguous: it could be class 3 (crane) or 4 (crane)", "number"),
        ("goldn retriever", "no class `goldn retriever`", "`golden retriever` (1)"),
        ("retriever", "no class", "`golden retriever` (1) or `Labrador retriever` (2)"),
        ("xyz", "no class `xyz`", "0 to 9: tench, golden retriever, Labrador retriever, …"),
        ("10", "class 10 is out of range", "0 to 9"),
        ("5-3", "the range `5-3` is empty", "0 to 9"),
        ('"tench', "not a list of classes", "after each quoted name"),
        ("tench,,tabby", "no class ``", "0 to 9"),
        ("\x1b[31mred" + "x" * 99, "�[31mred", "0 to 9"),
    ],
)
def test_what_is_no_class_is_said(text, message, help):
    with pytest.raises(RequestError) as caught:
        classes_from_text(text, 10, NAMES)
    assert message in caught.value.message and help in caught.value.help
    assert len(caught.value.message) < 120


def test_without_names():
    assert classes_from_text("all", 3) == [0, 1, 2]
    with pytest.raises(RequestError, match="neither a class nor a range"):
        classes_from_text("tabby", 3)
    assert title((), 3) == "3" and title(NAMES, 0) == "tench" and class_from_name("tabby cat", NAMES) == 8


def test_what_is_a_name():
    assert is_name("a" * LONGEST) and is_name("大白鲨")
    assert not any(map(is_name, ("", "a" * (LONGEST + 1), " a", "a\nb", "a\u202eb")))


@pytest.fixture
def named(tmp_path):
    bundle = tiny.host_bundle(tmp_path / "bundle")
    pipe = load(bundle, "cpu")
    condition = Condition("class", "label", classes=10, names=NAMES)
    return pipe, tiny.write(bundle, pipe.manifest.programs, tiny.PICTURE, ["step.onnx"], conditions=(condition,))


def test_a_bundle_with_names(named):
    pipe, folder = named
    wanted = pipe.sample([8, 3, 7])
    pipe = load(folder, "cpu")
    assert pipe.manifest.conditions[0].names == NAMES
    assert (pipe.sample(["tabby", 3, "7"]) == wanted).all()
    assert (pipe.sample('tabby cat,3,"7"') == wanted).all()
    assert (pipe.sample(conditions={"class": ["tabby", 3, 7]}) == wanted).all()
    for classes, said in (
        (["tabbi"], "did you mean `tabby` (8)?"),
        (["crane"], "ambiguous"),
        (["12"], "no class 12"),
        (["tabby", 0.5], "integers"),
    ):
        with pytest.raises(BundleError) as caught:
            pipe.sample(classes)
        assert said in str(caught.value) and caught.value.code == "E0608"


@pytest.mark.parametrize("names", [NAMES[:9], (*NAMES[:9], ""), (*NAMES[:9], "a\nb")])
def test_manifests_with_other_names_are_refused(named, names):
    pipe, folder = named
    condition = Condition("class", "label", classes=10, names=names)
    with pytest.raises(BundleError, match="a printable name of up to 256 characters for each class"):
        tiny.write(folder, pipe.manifest.programs, tiny.PICTURE, ["step.onnx"], conditions=(condition,))


def test_tokens_may_be_a_map_of_labels(named):
    pipe, folder = named
    for shape, vocabulary in (((2, 3), 4), ((), 4), ((2, 3), 0)):
        conditions = (*pipe.manifest.conditions, Condition("map", "tokens", shape, "i64", vocabulary=vocabulary))
        if shape and vocabulary:
            tiny.write(folder, pipe.manifest.programs, tiny.PICTURE, ["step.onnx"], conditions=conditions)
            continue
        with pytest.raises(BundleError, match="expected tokens of a vocabulary of 1 or more, in a row or a map"):
            tiny.write(folder, pipe.manifest.programs, tiny.PICTURE, ["step.onnx"], conditions=conditions)


def test_the_number_of_samples_of_a_text_is_bounded():
    with pytest.raises(RequestError, match="more than 100 samples"):
        classes_from_text("all," * 10**5, 60, most=100)
