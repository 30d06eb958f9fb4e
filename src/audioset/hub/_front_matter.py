"""The YAML before a card: as much of that language as it takes to write one, so that a card needs no library."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

# Letters first, nothing that means something in YAML behind them.
_PLAIN: Final = re.compile(r"[A-Za-z][\w./+<>-]*(?: [\w./+<>-]+)*", re.ASCII)
_WORDS: Final = frozenset(("true", "false", "yes", "no", "on", "off", "y", "n", "null"))
_UNPRINTABLE: Final = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


def front_matter(about: Mapping[str, Any]) -> str:
    """Return a mapping as YAML between two lines of dashes."""
    return "\n".join(["---", *_lines(about), "---"]) + "\n"


def _lines(value: Any) -> Iterator[str]:
    """Yield the lines of a mapping or a sequence that is not empty."""
    if isinstance(value, Mapping):
        for key, of in value.items():
            if _is_plain(of):
                yield f"{key}: {_scalar(of)}"
            else:
                yield f"{key}:"
                yield from (f"  {line}" for line in _lines(of))
        return
    for of in value:
        first, *rest = [_scalar(of)] if _is_plain(of) else _lines(of)
        yield f"- {first}"
        yield from (f"  {line}" for line in rest)


def _is_plain(value: Any) -> bool:
    return isinstance(value, str) or not isinstance(value, Mapping | Sequence)


def _scalar(value: str | float) -> str:
    if not isinstance(value, str):
        text = json.dumps(value)
        if isinstance(value, float) and "." not in text:
            return text.replace("e", ".0e")  # 1e-05 is text in YAML, 1.0e-05 a number
        return text
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))
