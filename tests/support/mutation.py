"""Files spoilt as a slip of the hand, another program or malice would: seeded and repeatable.

Mutant 17 of a set of files is the same on every machine, so a failure is named by its number.
"""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from hpsearch.config.parameters import COMPOSITE_FIELDS
from hpsearch.config.run import NetworkConfig, TrainingConfig


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NUMBERS = _words(
    """0 1 2 3 5 17 -1 -0 +1 1.0 0.0 -0.0 -0.5 0.5 1e-6 1.0e-6 1e6 1.0e+6 1e999 1.0e+999 -1.0e+999
    .inf -.inf .nan .NaN 010 0o10 0x10 0b11 1_000 _1 1__ 1:30 1:30.5 1:99 0.1.2 1. .5 5e-324
    1.0e-320 1.7976931348623157e+308 2147483647 2147483648 9223372036854775807 9223372036854775808
    99999999999999999999 0b_ 0x_ 0x +-1 '1' "2" '1e-6' 1,000 10% ½ ٣ １"""
)
WORDS = _words(
    """~ null Null true false yes no on off y N True int float categorical log linear low high type
    scale choices when otherwise output_blocks output_components output_scalars learning_rate
    epochs seed network training data parameters targets all mu U0 cosine plateau random tpe
    version split_file 2020-01-01 2020-01-01T00:00:00Z = << <<: ... -- !!str !!int !!binary !!set
    !!timestamp &a *a ! & * | > |- >+9 %YAML @ ` # ? : - , { } [ ] ' " '' "" [] {} [1] {a:1} [[]]
    [{}] {a: } {?} \\ \\x"""
)
HOSTILE = (
    "!!python/object/apply:os.system [id]",
    "!!python/name:os.system",
    "!!python/object/new:os.system {}",
    "!<tag:yaml.org,2002:python/object:os.x> {}",
    "!!float 'x'",
    '"\\0"',
    '"\\ud800"',
    '"\\UFFFFFFFF"',
    '"\\xZZ"',
    '"a\\nb"',
    '"\\e[2J"',
    '"\\u2028"',
    '"\\u202e"',
    "\x00",
    "\x07",
    "\x1b[2J",
    "\x7f",
    "\x85",
    "\u2028",
    "\u2029",
    "\u202e",
    "\ufeff",
    "\ufffe",
    "\xa0",
    "é",
    "e\u0301" * 40,
    "🙂",
    "\t",
    "\n",
    "\r",
    "\r\n",
    " ",
    "  ",
    "",
    "x" * 70,
    "9" * 70,
    "9" * 5000,
    "y" * 20_000,
    "1:" * 60 + "1",
    "[" * 40,
    "{a: " * 40,
    "[" * 20 + "]" * 20,
    "%YAML 9." + "9" * 5000,
    "%TAG ! tag:x,2000:\n---",
    "---",
    "...",
    "../../etc/passwd",
    "'; DROP TABLE trials; --",
    "${HOME}",
    "{{ 1 }}",
    "$(id)",
)

TOKENS = (*NUMBERS, *WORDS, *HOSTILE)

VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    2,
    3,
    -1,
    8,
    2**31 - 1,
    2**31,
    2**63 - 1,
    2**63,
    10**40,
    0.0,
    1.0,
    0.5,
    -0.5,
    1e-7,
    5e-324,
    1.7e308,
    float("inf"),
    float("-inf"),
    float("nan"),
    "",
    " ",
    "1",
    "1e-6",
    "no",
    "all",
    "mu",
    "log",
    "a\nb",
    "\x00",
    "\u202e",
    "é" * 400,
    "x" * 100,
    [],
    {},
    [[]],
    [None],
    [1, 1],
    [True, 1],
    [1, 1.0],
    ["mu\nU0"],
    ["x" * 5000],
    ["mu", "mu"],
    ["U0", "all"],
    list(range(1, 1200)),
    {"": 1},
    {"low": 1, "high": 2, "type": "int"},
    {"type": "categorical", "choices": []},
)
"""What a value may be replaced by, where the file stays YAML."""


@dataclass(frozen=True)
class Mutant:
    """A spoilt file.

    Attributes:
        number: repeats it.
        base: name of the file that was spoilt.
        steps: what was done to it.
        content: the file's bytes.
    """

    number: int
    base: str
    steps: tuple[str, ...]
    content: bytes

    def __str__(self) -> str:
        return f"mutant {self.number} of {self.base}: {', '.join(self.steps)}"


Chance = random.Random
Tree = dict[str, Any]
TextChange = Callable[[str, Chance], str]
ByteChange = Callable[[bytes, Chance], bytes]
TreeChange = Callable[[Tree, Chance], None]


def mutant(number: int, files: Mapping[str, str], trees: Sequence[TreeChange]) -> Mutant:
    """Mutant ``number`` of ``files``.

    Args:
        number: the seed.
        files: texts of valid files, by name.
        trees: changes to a file's parsed mapping that know what the file means.
    """
    chance = random.Random(number)
    base = chance.choice(sorted(files))
    text, steps = files[base], list[str]()
    # Half stay YAML, which reaches the rules behind the reader.
    if chance.random() < 0.5:
        tree = yaml.safe_load(text)
        changes: Sequence[TreeChange] = (*trees, *trees, *_TREE_CHANGES)
        for change in chance.choices(changes, k=chance.choice((1, 1, 1, 2, 3))):
            change(tree, chance)
            steps.append(_name(change))
        text, style = _written(tree, chance)
        steps.append(style)
    if not steps or chance.random() < 0.1:
        for alter in chance.choices(_TEXT_CHANGES, k=chance.choice((1, 1, 1, 2, 3, 4))):
            text = alter(text, chance)
            steps.append(_name(alter))
    content = text.encode("utf-8", "surrogatepass")
    if chance.random() < 0.06:
        spoil = chance.choice(_BYTE_CHANGES)
        content = spoil(content, chance)
        steps.append(_name(spoil))
    return Mutant(number, base, tuple(steps), content)


def _name(change: Callable[..., Any]) -> str:
    return change.__name__.strip("_")


def _written(tree: Tree, chance: Chance) -> tuple[str, str]:
    """``tree`` as YAML in one of four styles, and the style's name."""
    style = chance.choice(("block", "mixed", "flow", "json"))
    if style == "json":
        text = json.dumps(tree, indent=chance.choice((None, 1, 2))) + "\n"
        return re.sub(r"\b(\d)e([-+]\d+)", r"\1.0e\2", text), style
    flow = {"block": False, "mixed": None, "flow": True}[style]
    text = yaml.dump(tree, Dumper=_Plain, default_flow_style=flow, sort_keys=False, width=90)
    return text, style


class _Plain(yaml.SafeDumper):
    """Without aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


# Bytes ------------------------------------------------------------------------------------------


def _bytes_flipped(content: bytes, chance: Chance) -> bytes:
    spoilt = bytearray(content)
    for _ in range(chance.choice((1, 2, 8, 100))):
        if spoilt:
            spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)
    return bytes(spoilt)


def _cut_short(content: bytes, chance: Chance) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def _other_encoding(content: bytes, chance: Chance) -> bytes:
    text = content.decode("utf-8", "replace") + "# é\n"
    return text.encode(chance.choice(("utf-16", "utf-16-le", "utf-32", "cp1252")), "replace")


def _marked(content: bytes, chance: Chance) -> bytes:
    return b"\xef\xbb\xbf" * chance.choice((1, 1, 2)) + content


def _foreign_bytes(content: bytes, chance: Chance) -> bytes:
    at = chance.randrange(len(content) + 1)
    foreign = chance.choice((b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\x00", b"\x80", b"\xf5"))
    return content[:at] + foreign + content[at:]


def _huge(content: bytes, chance: Chance) -> bytes:
    filling = chance.choice((b"# x\n", b"\n", b"a: 1\n", b"[", b" ", b"- ", b"x: [a, b]\n", b"'\n"))
    size = chance.choice((20_000, 60_000, 300_000))
    many = filling * (size // len(filling))
    return many + content if chance.random() < 0.5 else content + many


_BYTE_CHANGES: tuple[ByteChange, ...] = (
    _bytes_flipped,
    _bytes_flipped,
    _cut_short,
    _other_encoding,
    _marked,
    _foreign_bytes,
    _huge,
)


# Text -------------------------------------------------------------------------------------------

_WORD = re.compile(r"[\w.+-]+")


def _word(text: str, chance: Chance) -> tuple[int, int]:
    found = [match.span() for match in _WORD.finditer(text)]
    return chance.choice(found) if found else (0, 0)


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True) or [""]


def _inserted(text: str, chance: Chance) -> str:
    at = chance.randrange(len(text) + 1)
    return text[:at] + chance.choice(TOKENS) + text[at:]


def _deleted(text: str, chance: Chance) -> str:
    at = chance.randrange(len(text) + 1)
    return text[:at] + text[at + chance.randint(1, 12) :]


def _character_changed(text: str, chance: Chance) -> str:
    at = chance.randrange(len(text) + 1)
    return (
        text[:at]
        + chr(chance.choice((chance.randrange(128), chance.randrange(0xD800))))
        + text[at + 1 :]
    )


def _word_replaced(text: str, chance: Chance) -> str:
    start, end = _word(text, chance)
    return text[:start] + chance.choice(TOKENS) + text[end:]


def _value_replaced(text: str, chance: Chance) -> str:
    found = list(re.finditer(r"(?<=: )[^\s,}\]#]+", text))
    if not found:
        return text
    start, end = chance.choice(found).span()
    return text[:start] + chance.choice(TOKENS) + text[end:]


def _word_copied(text: str, chance: Chance) -> str:
    (start, end), (low, high) = _word(text, chance), _word(text, chance)
    return text[:start] + text[low:high] + text[end:]


def _key_misspelt(text: str, chance: Chance) -> str:
    keys = list(re.finditer(r"\w+(?=:)", text))
    if not keys:
        return text
    start, end = chance.choice(keys).span()
    at = chance.randrange(start, end)
    new = chance.choice((text[start:at] + text[at + 1 : end], text[start:at] + "x" + text[at:end]))
    return text[:start] + new + text[end:]


def _line_deleted(text: str, chance: Chance) -> str:
    lines = _lines(text)
    del lines[chance.randrange(len(lines))]
    return "".join(lines)


def _line_doubled(text: str, chance: Chance) -> str:
    lines = _lines(text)
    lines.insert(chance.randrange(len(lines)), chance.choice(lines))
    return "".join(lines)


def _lines_swapped(text: str, chance: Chance) -> str:
    lines = _lines(text)
    one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return "".join(lines)


def _lines_joined(text: str, chance: Chance) -> str:
    lines = _lines(text)
    at = chance.randrange(len(lines))
    lines[at] = lines[at].rstrip("\n")
    return "".join(lines)


def _indented(text: str, chance: Chance) -> str:
    lines = _lines(text)
    at, by = chance.randrange(len(lines)), chance.choice((" ", "  ", "\t", "    ", "- ", None))
    for row in range(at, min(len(lines), at + chance.randint(1, 3))):
        lines[row] = lines[row].removeprefix(" ") if by is None else by + lines[row]
    return "".join(lines)


def _line_ends(text: str, chance: Chance) -> str:
    return text.replace("\n", chance.choice(("\r\n", "\r", "\n\n", "\u2028", "\x85", "\n\r")))


def _tabs(text: str, chance: Chance) -> str:
    return text.replace("  ", "\t", chance.randint(1, 10))


def _anchored(text: str, chance: Chance) -> str:
    text = re.sub(r"(?<=: )(?=\S)", "&a ", text, count=chance.randint(1, 3))
    start, end = _word(text, chance)
    return text[:start] + chance.choice(("*a", "<<: *a", "*b", "&a *a")) + text[end:]


def _alias_bomb(text: str, chance: Chance) -> str:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
    )
    return bomb + text if chance.random() < 0.5 else text + bomb


def _several_documents(text: str, chance: Chance) -> str:
    lines = _lines(text)
    mark = chance.choice(("---\n", "...\n", "...\n---\n", "--- {}\n", "%YAML 1.2\n---\n"))
    lines.insert(chance.randrange(len(lines) + 1), mark)
    return "".join(lines)


def _nested(text: str, chance: Chance) -> str:
    depth = chance.choice((3, 15, 17, 500, 3000))
    start, end = _word(text, chance)
    opening, closing = chance.choice((("[", "]"), ("{a: ", "}"), ("? ", ""), ("- ", "")))
    return f"{text[:start]}{opening * depth}{text[start:end]}{closing * depth}{text[end:]}"


def _torn(text: str, chance: Chance) -> str:
    """A part of the file again, somewhere else, as a merge gone wrong leaves it."""
    lines = _lines(text)
    at, size = chance.randrange(len(lines)), chance.randint(2, 12)
    to = chance.randrange(len(lines))
    marks = chance.random() < 0.3
    part = [*(["<<<<<<< HEAD\n"] if marks else []), *lines[at : at + size]]
    return "".join([*lines[:to], *part, *lines[to:]])


_TEXT_CHANGES: tuple[TextChange, ...] = (
    _inserted,
    _deleted,
    _character_changed,
    _word_replaced,
    _word_replaced,
    _value_replaced,
    _value_replaced,
    _value_replaced,
    _word_copied,
    _word_copied,
    _key_misspelt,
    _line_deleted,
    _line_doubled,
    _lines_swapped,
    _lines_joined,
    _indented,
    _line_ends,
    _tabs,
    _anchored,
    _alias_bomb,
    _several_documents,
    _nested,
    _torn,
)


# Trees ------------------------------------------------------------------------------------------


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every value inside nested data, as its holder and its key there."""
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def _tree_value(tree: Tree, chance: Chance) -> None:
    holder, key = _place(tree, chance)
    holder[key] = copy.deepcopy(chance.choice(VALUES))


def _tree_number(tree: Tree, chance: Chance) -> None:
    """A number changed a little, which often stays valid."""
    found = [(h, k) for h, k in places(tree) if type(h[k]) in (int, float)]
    if found:
        holder, key = chance.choice(found)
        value = holder[key]
        holder[key] = chance.choice((value + 1, value - 1, -value, value * 10, value / 2, 0, 1))


def _tree_deleted(tree: Tree, chance: Chance) -> None:
    holder, key = _place(tree, chance)
    del holder[key]


def _tree_swapped(tree: Tree, chance: Chance) -> None:
    (one, key), (other, name) = _place(tree, chance), _place(tree, chance)
    # One inside the other would make a circle of the two.
    one[key], other[name] = copy.deepcopy(other[name]), copy.deepcopy(one[key])


def _tree_renamed(tree: Tree, chance: Chance) -> None:
    mappings = [tree, *(h[k] for h, k in places(tree) if isinstance(h[k], dict) and h[k])]
    mapping = chance.choice([m for m in mappings if m] or [{"": None}])
    other = chance.choice(mappings)
    key = chance.choice(list(mapping))
    new = chance.choice([*(str(k) for k in other), *WORDS[:40], "", "x" * 90, "a\nb", "\x00", "é"])
    mapping[new] = mapping.pop(key)


def _tree_wrapped(tree: Tree, chance: Chance) -> None:
    holder, key = _place(tree, chance)
    value = holder[key]
    holder[key] = chance.choice(([value], [value, value], {"value": value}, str(value), [[value]]))


def _place(tree: Tree, chance: Chance) -> tuple[Any, Any]:
    found = list(places(tree))
    return chance.choice(found) if found else ({"": None}, "")


_TREE_CHANGES: tuple[TreeChange, ...] = (
    _tree_value,
    _tree_value,
    _tree_number,
    _tree_number,
    _tree_deleted,
    _tree_swapped,
    _tree_renamed,
    _tree_wrapped,
)


# Search spaces ----------------------------------------------------------------------------------

_NETWORK = (*NetworkConfig.model_fields, *COMPOSITE_FIELDS)
_TRAINING = tuple(TrainingConfig.model_fields)
_FIELDS = (*_NETWORK, *_TRAINING)

_BOUNDS: tuple[Any, ...] = (
    *(0, 1, 2, 3, 4, 8, 9, 100, 2**31 - 1, 2**31, -1, True),
    *(0.0, 1e-9, 0.5, 1.0, 1.5, 5e-324, 1e-300, 1e300, 1.7976931348623157e308),
)
_CHOICES: tuple[Any, ...] = (
    *(True, False, 0, 1, 2, 3, 4, 64, 2**31, 2**62),
    *(0.0, 0.25, 0.5, 1.0, 2.0, 1e300),
    *("cosine", "gaussian", "bessel", "plateau", "1"),
)


def _section(tree: Tree, name: str) -> Tree:
    """The mapping under ``name``; one that is thrown away where an earlier change broke it."""
    found = tree.get(name)
    return found if isinstance(found, dict) else {"": None}


def _a_parameter(tree: Tree, chance: Chance) -> tuple[str, Tree]:
    """A parameter's name and mapping."""
    found = [(n, p) for n, p in _section(tree, "parameters").items() if isinstance(p, dict)]
    return chance.choice(found) if found else ("", {})


def _drawn(chance: Chance) -> Tree:
    """A parameter of any kind, sensible or not."""
    low, high = chance.choice(_BOUNDS), chance.choice(_BOUNDS)
    if chance.random() < 0.8:
        low, high = sorted((low, high))
    kind = chance.choice(("int", "float", "categorical"))
    if kind == "categorical":
        return {"type": kind, "choices": chance.choices(_CHOICES, k=chance.randint(1, 4))}
    if kind == "float" and chance.random() < 0.8:
        low, high = float(low), float(high)
    if kind == "int" and chance.random() < 0.9:
        low, high = int(min(low, 2**31)), int(min(high, 2**31))
    scale = {"scale": chance.choice(("linear", "log"))} if chance.random() < 0.6 else {}
    return {"type": kind, "low": low, "high": high, **scale}


def _range_changed(tree: Tree, chance: Chance) -> None:
    name, _ = _a_parameter(tree, chance)
    _section(tree, "parameters")[name] = _drawn(chance)


def _end_changed(tree: Tree, chance: Chance) -> None:
    _, parameter = _a_parameter(tree, chance)
    parameter[chance.choice(("low", "high"))] = chance.choice(_BOUNDS)
    if chance.random() < 0.4:
        parameter["scale"] = "log"


def _choices_changed(tree: Tree, chance: Chance) -> None:
    _, parameter = _a_parameter(tree, chance)
    kept = {key: parameter[key] for key in ("when", "otherwise") if key in parameter}
    parameter.clear()
    ends = chance.choices(_CHOICES, k=chance.randint(0, 5))
    parameter.update({"type": "categorical", "choices": ends, **kept})


def _condition_added(tree: Tree, chance: Chance) -> None:
    _, parameter = _a_parameter(tree, chance)
    other, parent = _a_parameter(tree, chance)
    allowed = [parent.get("low"), parent.get("high"), *(parent.get("choices") or [])]
    one = chance.choice((*allowed, 1, 2, True, chance.choice(_CHOICES)))
    values = chance.choice((one, [one, 2], chance.sample(allowed, k=1), []))
    other = chance.choice((other, other, other, "output_blocks", chance.choice(_FIELDS), "nobody"))
    when = parameter.get("when")
    parameter["when"] = {**(when if isinstance(when, dict) else {}), other: values}
    if chance.random() < 0.7:
        parameter["otherwise"] = chance.choice((*_BOUNDS, parameter.get("low"), one))


def _condition_dropped(tree: Tree, chance: Chance) -> None:
    found = [
        p for p in _section(tree, "parameters").values() if isinstance(p, dict) and "when" in p
    ]
    if found:
        chance.choice(found).pop(chance.choice(("when", "when", "type", "high")), None)


def _conditions_in_a_circle(tree: Tree, chance: Chance) -> None:
    (one, first), (other, second) = _a_parameter(tree, chance), _a_parameter(tree, chance)
    first.update(when={other: second.get("low", 1)}, otherwise=first.get("low", 1))
    second.update(when={one: first.get("low", 1)}, otherwise=second.get("low", 1))


def _field_moved(tree: Tree, chance: Chance) -> None:
    """A field fixed instead of searched, searched instead of fixed, given twice or nowhere."""
    name = chance.choice(_FIELDS)
    home = _section(tree, "network" if name in _NETWORK else "training")
    parameters = _section(tree, "parameters")
    if chance.random() < 0.8:
        home.pop(name, None)
        parameters.pop(name, None)
    if chance.random() < 0.5:
        parameters[name] = _drawn(chance)
    else:
        where = home if chance.random() < 0.8 else _section(tree, "training")
        where[name] = chance.choice((*_BOUNDS, *_CHOICES))


def _widths_direct(tree: Tree, chance: Chance) -> None:
    """Scalars and vectors given directly, with or without what guards them."""
    part = chance.choice(("featurization", "output"))
    network, parameters = _section(tree, "network"), _section(tree, "parameters")
    for name in (f"{part}_components", f"{part}_scalar_fraction"):
        parameters.pop(name, None)
        network.pop(name, None)
    for name in (f"{part}_scalars", f"{part}_vectors"):
        network.pop(name, None)
        drawn: Tree = {"type": "int", "low": chance.randint(0, 2), "high": chance.randint(1, 9)}
        if chance.random() < 0.3:
            drawn = {"type": "categorical", "choices": chance.sample(range(5), k=2)}
        if chance.random() < 0.6:
            drawn |= {"when": {"output_blocks": chance.choice((2, [2], [2, 3], 1))}}
            drawn |= {"otherwise": chance.choice((0, 0, 0, 1))}
        if chance.random() < 0.75:
            parameters[name] = drawn
        else:
            network[name] = chance.choice((0, 0, 1, 7))


def _output_blocks_changed(tree: Tree, chance: Chance) -> None:
    network, parameters = _section(tree, "network"), _section(tree, "parameters")
    network.pop("output_blocks", None)
    parameters.pop("output_blocks", None)
    low = chance.randint(1, 3)
    drawn: tuple[Any, ...] = (
        {"type": "int", "low": low, "high": chance.choice((low, low + 1, 2**31 - 1))},
        {"type": "categorical", "choices": chance.sample((1, 2, 3, 4), k=2)},
        {
            "type": "int",
            "low": low,
            "high": low + 1,
            "when": {"radial_mlp_layers": 1},
            "otherwise": chance.randint(1, 3),
        },
    )
    if chance.random() < 0.7:
        parameters["output_blocks"] = chance.choice(drawn)
    else:
        network["output_blocks"] = low
    for name in ("output_components", "output_scalar_fraction"):
        if isinstance(parameter := parameters.get(name), dict) and chance.random() < 0.8:
            parameter["when"] = {"output_blocks": chance.choice((2, 3, [2, 3], [2, 3, 4], [1, 2]))}


def _composite_fixed(tree: Tree, chance: Chance) -> None:
    part = chance.choice(("featurization", "output"))
    name, values = chance.choice(
        (
            (f"{part}_components", (0, 2, 3, 64, 2**62, 1.0)),
            (f"{part}_scalar_fraction", (0, 0.0, 0.5, 1, 1.0, 1.5)),
        )
    )
    _section(tree, "parameters").pop(name, None)
    _section(tree, "network")[name] = chance.choice(values)


def _data_changed(tree: Tree, chance: Chance) -> None:
    if chance.random() < 0.5:
        file = chance.choice(("split.json", "", "/nowhere/x.npz", "..", "a" * 300, "~/x", "a b", 3))
        sizes = {"split_seed": chance.randint(0, 1)} if chance.random() < 0.3 else {}
        tree["data"] = {"split_file": file, **sizes}
    else:
        name = chance.choice(("train_size", "validation_size", "test_size", "split_seed"))
        value = chance.choice((None, 0, 1, 2, 130_831, 200_000, 2**62, 2**63 - 1, 5.0))
        _section(tree, "data")[name] = value


def _top_changed(tree: Tree, chance: Chance) -> None:
    name = chance.choice(("trials", "sampler", "startup_trials", "seed", "targets", "name"))
    values: dict[str, tuple[Any, ...]] = {
        "trials": (0, 1, 7, 2**31 - 1, 2**31, 1.0, True),
        "sampler": ("random", "tpe", "gp", "qmc", "grid", ""),
        "startup_trials": (0, 1, 2**31 - 1),
        "seed": (-1, 0, 2**31 - 1, 2**32),
        "targets": ("mu", ["mu", "Cv"], ["all", "mu"], [], ["MU"], "u0", ["m\nu"], "x" * 999, [1]),
        "name": ("x", "a" * 64, "a" * 65, "..", ".x", "a..b", "a\n", "CON", "a/b", "-x", ""),
    }
    tree[name] = chance.choice(values[name])
    if chance.random() < 0.2:
        tree[chance.choice(("description", "notes", "format", "version"))] = chance.choice(
            ("hpsearch-winner/1", "x", 1, 2, "", "a\nb", "é" * 3000)
        )


SPACE_CHANGES: tuple[TreeChange, ...] = (
    _range_changed,
    _end_changed,
    _choices_changed,
    _condition_added,
    _condition_added,
    _condition_dropped,
    _conditions_in_a_circle,
    _field_moved,
    _widths_direct,
    _output_blocks_changed,
    _composite_fixed,
    _data_changed,
    _top_changed,
)
"""Changes that know what a search space means."""


# Exports ----------------------------------------------------------------------------------------


def _config_changed(tree: Tree, chance: Chance) -> None:
    config = _section(tree, "config")
    holder, key = _place(config, chance)
    holder[key] = chance.choice((*_BOUNDS, *_CHOICES, None))


def _unguarded(tree: Tree, chance: Chance) -> None:
    """As a person edits an export on purpose."""
    tree.pop("fingerprint", None)
    _config_changed(tree, chance)


def _provenance_changed(tree: Tree, chance: Chance) -> None:
    provenance = _section(tree, "provenance")
    holder, key = _place(provenance, chance)
    holder[key] = chance.choice((None, -1, 0, 1.5, "meV", "x", "a\nb", "\x00", [], {}, 2**70))
    text = chance.choice(("mu", "nobody", "a\nb", "\x00", "\U0001f642", "x" * 999, ""))
    for mapping in ("versions", "validation_maes"):
        if chance.random() < 0.2:
            entry = "1" if mapping == "versions" else {"mae": 0.1, "unit": "D"}
            _section(provenance, mapping)[text] = entry


def _assumed_changed(tree: Tree, chance: Chance) -> None:
    names = ("targets", "network.residual", "network.resid", "data", "a\nb", "x" * 999, 3, None)
    tree["assumed"] = chance.choices(names, k=chance.randint(0, 3))


EXPORT_CHANGES: tuple[TreeChange, ...] = (
    _config_changed,
    _unguarded,
    _unguarded,
    _unguarded,
    _provenance_changed,
    _assumed_changed,
)
"""Changes that know what an exported configuration means."""
