"""Manual pages: roff with the macros of man or mdoc, as text with its sections.

Why not groff or mandoc: they are programs, and a hostile page is read without starting one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from quaver.documents.outline import Heading, sections_between
from quaver.documents.passage import Document

_ESCAPE = re.compile(
    r"""\\(?:
    (?P<comment>["\#].*)
  | [fFmMgkn*V](?P<string>[+-]?(?:\[[^\]]{0,80}\]|\(..|.))
  | s[+-]?(?:\[[^\]]{0,80}\]|\(..|'[^']{0,200}'|\d{1,2})
  | [hvwDXxZbloLNRSHABC]'(?P<quoted>[^']{0,200})'
  | \[(?P<name>[^\]]{0,80})\]
  | \((?P<two>..)
  | (?P<one>.)
  | $)""",
    re.VERBOSE,
)
_NAMED = {
    **{"em": "—", "en": "–", "hy": "-", "mi": "-", "-": "-", "aq": "'", "dq": '"', "cq": "’"},  # noqa: RUF001
    **{"oq": "‘", "lq": "“", "rq": "”", "bu": "•", "co": "©", "rg": "®", "tm": "™"},  # noqa: RUF001
    **{"ti": "~", "ha": "^", "rs": "\\", "ga": "`", "at": "@", "sh": "#", "Do": "$", "ul": "_"},
    **{"lB": "[", "rB": "]", "lC": "{", "rC": "}", "la": "⟨", "ra": "⟩", "<=": "≤", ">=": "≥"},
    **{"!=": "≠", "->": "→", "<-": "←", "+-": "±", "mu": "×", "de": "°", "ss": "ß", "ba": "|"},  # noqa: RUF001
    **{"br": "|", "sc": "§", "Fo": "«", "Fc": "»", "if": "∞", "Po": "£", "Eu": "€", "aa": "´"},  # noqa: RUF001
    **{"ne": "≠", "eq": "=", "pl": "+", "sl": "/", "or": "|", "ci": "○", "sq": "□", "OK": "✓"},
}
_STRINGS = {"lq": "“", "rq": "”", "Aq": "'", "L": "“", "U": "”", "Lq": "“", "Rq": "”", "Tm": "™"}
_STRINGS |= {"R": "®", "L'": "‘", "C'": "'", "C`": "`", "Gt": ">", "Lt": "<", "Ba": "|"}  # noqa: RUF001
_ACCENTS = {
    ":": "\u0308",
    "'": "\u0301",
    "`": "\u0300",
    "^": "\u0302",
    "~": "\u0303",
    ",": "\u0327",
}
_ONE = {
    "-": "-",
    "e": "\\",
    "\\": "\\",
    " ": " ",
    "~": " ",
    "0": " ",
    "t": "\t",
    "'": "'",
    "`": "`",
}
_ONE |= {"E": "\\", ".": ".", "|": "", "p": ""}
_ARGUMENT = re.compile(r'"((?:[^"]|"")*)(?:"|$)|((?:\\.|[^\s\\])+)')
_UNICODE = re.compile(r"u([0-9A-F]{4,6})")

_FONTS = frozenset(("B", "I", "R", "SM", "SB", "CW"))
_MIXED_FONTS = frozenset(("BI", "BR", "IB", "IR", "RB", "RI"))
_BREAKS = frozenset(("PP", "LP", "P", "sp", "Sp", "HP", "Pp", "bp", "Bl", "El", "YS", "RS", "RE"))
_UNFILLED = frozenset(("nf", "EX", "Vb", "Bd"))
_FILLED = frozenset(("fi", "EE", "Ve", "Ed"))
_DEEPEST = 10
_SKIPPED = {"de": "..", "de1": "..", "am": "..", "ig": "..", "EQ": ".EN", "PS": ".PE"}
_CONDITION = re.compile(r"(!?)(?:([noet])|\\n|'[^']{0,200}'[^']{0,200}'|\(|\d|[dr]\s*\S+|\S)")

_ENCLOSURES = {
    **{"Op": "[]", "Oo": "[]", "Bq": "[]", "Bo": "[]", "Aq": "<>", "Ao": "<>", "Pq": "()"},
    **{"Po": "()", "Sq": "‘’", "So": "‘’", "Dq": "“”", "Do": "“”", "Qq": '""', "Qo": '""'},  # noqa: RUF001
    **{"Brq": "{}", "Bro": "{}", "Ql": "‘’", "Qc": '""'},  # noqa: RUF001
}
_CLOSERS = {
    **{"Oc": "]", "Bc": "]", "Ac": ">", "Pc": ")", "Sc": "’", "Dc": "”", "Qc": '"', "Brc": "}"},  # noqa: RUF001
}
_PLAIN = frozenset(
    (
        *("Ar", "Cm", "Ic", "Li", "Pa", "Ev", "Va", "Vt", "Em", "Sy", "Dv", "Er", "Ad", "An", "Fa"),
        *("Ft", "Fn", "Fo", "In", "Lb", "Ms", "Mt", "No", "Tn", "Nm", "Fl", "Xr", "Ns", "Ap", "St"),
        *(
            "Lk",
            "Cd",
            "Sx",
            "Pf",
            "Ux",
            "Bx",
            "Nx",
            "Fx",
            "Ox",
            "Dx",
            "At",
            "Bsx",
            "Rv",
            "Ex",
            "Fd",
        ),
        *("Fr", "Xo", "Xc", "Hf", "Tg"),
    )
)
_SYSTEMS = {"Ux": "UNIX", "Bx": "BSD", "Nx": "NetBSD", "Fx": "FreeBSD", "Ox": "OpenBSD"}
_SYSTEMS |= {"Dx": "DragonFly", "Bsx": "BSD/OS", "At": "AT&T UNIX"}
_PUNCTUATION = frozenset((".", ",", ":", ";", ")", "]", "?", "!"))


def manual_document(text: str) -> Document:
    """Read a manual page.

    Args:
        text: the decoded file.

    Returns:
        the document. Its name (`ls(1)`) and its sections are the headings; paragraphs are lines,
        examples keep theirs, fonts are left out.

    Source:
        groff_man(7), mdoc(7), "groff: Escape sequences".
    """
    writer = _Writer()
    writer.write(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    whole = "".join(writer.parts)
    return Document("", whole, sections_between(whole, writer.headings))


class _Writer:
    """Collects paragraphs and headings line by line."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.headings: list[Heading] = []
        self._length = 0
        self._words: list[str] = []
        self._lines: list[str] = []
        self._fill = True
        self._name = ""
        # The role of the next line of text: title of a section, or tag of a paragraph.
        self._next: int | str | None = None

    def write(self, lines: list[str]) -> None:
        waiting = iter(_joined(lines))
        taken = True  # whether the last .ie was true
        depth = 0  # of braces whose condition is false
        for line in waiting:
            if depth:
                depth += line.count(r"\{") - line.count(r"\}")
                depth = max(depth, 0)
                continue
            macro, rest = _macro(line)
            for _ in range(_DEEPEST):
                if macro not in ("if", "ie", "el", "while"):
                    rest = rest.replace(r"\}", "") if macro is not None else rest
                    break
                if macro == "el":
                    holds = not taken
                else:
                    holds, rest = _condition(rest)
                    taken = holds if macro == "ie" else taken
                if not holds:
                    depth = max(rest.count(r"\{") - rest.count(r"\}"), 0)
                    macro, rest = "", ""
                    break
                macro, rest = _macro(rest.strip().removeprefix(r"\{").strip())
            else:  # no real page nests so many conditions in a line
                macro = ""
            if macro == "":
                continue
            if macro in _SKIPPED:
                end = _SKIPPED[macro]
                for skipped in waiting:
                    if skipped.startswith(end) or skipped.startswith("." + end):
                        break
            elif macro == "TS":
                self._table(waiting)
            elif macro is None:
                self._text(rest)
            else:
                self._request(macro, rest)
        self._paragraph()

    def _text(self, line: str) -> None:
        """Process a line of text."""
        if line.strip() in (r"\}", r".\}"):
            return
        if not self._fill:
            self._words.append(_plain(line).rstrip())
            return
        if not line.strip():
            self._paragraph()
            return
        if line[0] in " \t":
            self._break()
        self._add(_plain(line).strip())

    def _add(self, text: str) -> None:
        """Add words to the paragraph, or use them as the heading that is expected."""
        if not text:
            return
        if isinstance(self._next, int):
            level, self._next = self._next, None
            self._heading(level, text)
            return
        self._words.append(text)
        if self._next == "tag":
            self._next = None
            self._break()

    def _request(self, macro: str, rest: str) -> None:
        """Execute a request: a line that begins with a dot."""
        arguments = _arguments(rest)
        plain = [_plain(argument) for argument in arguments]
        if macro in ("TH", "Dt") and plain:
            section = f"({plain[1].lower()})" if len(plain) > 1 and plain[1] else ""
            self._heading(0, plain[0].lower() + section)
        elif macro in ("SH", "Sh", "SS", "Ss"):
            self._fill = True
            level = 1 if macro in ("SH", "Sh") else 2
            self._paragraph()
            if plain:
                self._heading(level, " ".join(plain))
            else:
                self._next = level
        elif macro in _BREAKS:
            self._paragraph()
        elif macro in ("TP", "TQ"):
            self._paragraph() if macro == "TP" else self._break()
            self._next = "tag"
        elif macro in ("IP", "It"):
            self._paragraph()
            tag = _inline(arguments, self) if macro == "It" else "".join(plain[:1])
            if tag:
                self._words.append(tag)
                if len(tag) > 1:
                    self._break()
        elif macro in ("br", "SY"):
            self._break()
            self._add(" ".join(plain) if macro == "SY" else "")
        elif macro in _UNFILLED:
            self._paragraph()
            self._fill = macro == "Bd" and not {"-literal", "-unfilled"} & set(plain)
        elif macro in _FILLED:
            self._paragraph()
            self._fill = True
        elif macro in _MIXED_FONTS:
            self._add("".join(plain))
        elif macro in _FONTS:
            self._add(" ".join(plain))
        elif macro == "OP":
            self._add(f"[{' '.join(plain)}]")
        elif macro in ("UE", "ME", "UR", "MT"):
            # The address precedes its text, or follows it as punctuation.
            self._add(f"<{plain[0]}>" if macro in ("UR", "MT") and plain else "")
        elif macro == "so" and plain:
            self._add(f"See {plain[0]}.")
        elif macro == "Nd":
            self._add(f"- {' '.join(plain)}")
        elif macro in ("Dl", "D1"):
            self._break()
            self._add(_inline(arguments, self))
            self._break()
        elif macro.startswith("%") and len(macro) == 2:
            self._add(f"{' '.join(plain)},")
        elif macro in _PLAIN or macro in _ENCLOSURES or macro in _CLOSERS:
            if macro == "Nm" and plain and not self._name:
                self._name = plain[0]
            self._add(_inline([macro, *arguments], self))

    @property
    def name(self) -> str:
        """The subject of the page: the first name it lists."""
        return self._name

    def _table(self, waiting: Iterator[str]) -> None:
        """Write a tbl table, one line for each row."""
        self._paragraph()
        separator, header, block = "\t", True, ""
        rows: list[str] = []
        for line in waiting:
            if line.startswith(".TE"):
                break
            if line.startswith(".T&"):
                header = True
            elif header:
                if found := re.search(r"\btab\s*\((.)\)", line):
                    separator = found[1]
                header = not line.rstrip().endswith(".")
            elif block or line.rstrip().endswith("T{"):
                # A cell of several lines, between T{ and T}.
                macro, rest = _macro(line)
                said = rest if macro is None else " ".join(_arguments(rest))
                block += f" {said}".replace("T}", "")
                if line.startswith("T}") and not line.rstrip().endswith("T{"):
                    rows.append(block)
                    block = ""
            elif not line.startswith(".") and line.strip() not in ("_", "="):
                rows.append(line)
        for row in (*rows, block):
            cells = (_plain(cell.replace("T{", "")) for cell in row.split(separator))
            said = " | ".join(filter(None, (" ".join(cell.split()) for cell in cells)))
            if said:
                self._words.append(said)
                self._break()
        self._paragraph()

    def _heading(self, level: int, text: str) -> None:
        self._paragraph()
        start = self._length
        title = " ".join(text.split())
        if title:
            self._put(title)
            self.headings.append(Heading(level, title, start, self._length))

    def _break(self) -> None:
        """End a line of the paragraph."""
        if self._words:
            joined = (" " if self._fill else "\n").join(self._words)
            self._lines.append(joined)
            self._words.clear()

    def _paragraph(self) -> None:
        """End the paragraph."""
        self._break()
        block = "\n".join(self._lines).strip("\n")
        self._lines.clear()
        if block.strip():
            self._put(block)

    def _put(self, block: str) -> None:
        self.parts.append(block + "\n\n")
        self._length += len(block) + 2


def _joined(lines: list[str]) -> Iterator[str]:
    """Yield lines, joining one that ends in a backslash with the next."""
    held: list[str] = []
    for line in lines:
        slashes = len(line) - len(line.rstrip("\\"))
        if slashes % 2:
            held.append(line[:-1])
        else:
            yield "".join((*held, line))
            held.clear()
    if held:
        yield "".join(held)


def _macro(line: str) -> tuple[str | None, str]:
    """Split a line into a request's name and its arguments; the name is None for text."""
    if not line or line[0] not in ".'":
        return None, line
    body = line[1:].lstrip(" \t")
    if not body or body.startswith(('\\"', "\\}", "\\#")):
        return "", ""
    found = re.match(r"[^\s\\]+", body)
    name = found.group() if found else ""
    return name, body[len(name) :].strip(" \t")


def _condition(text: str) -> tuple[bool, str]:
    """Evaluate a condition for a terminal; return its result and the text that depends on it."""
    found = _CONDITION.match(text)
    if found is None:
        return False, text
    negated, letter = found.groups()
    holds = (letter in ("n", "o")) != bool(negated)
    if letter is None:
        holds = False
        # The compared text ends at a space or a brace.
        cut = re.search(r"\s|\\\{", text[found.end() :])
        return holds, text[found.end() + (cut.start() if cut else 0) :].strip()
    return holds, text[found.end() :].strip()


def _arguments(text: str) -> list[str]:
    """Split the arguments of a macro."""
    comment = re.search(r'(?<!\\)(?:\\\\)*\\"', text)
    if comment is not None:
        text = text[: comment.start()]
    return [
        match[2] if match[2] is not None else match[1].replace('""', '"')
        for match in _ARGUMENT.finditer(text)
    ]


def _inline(arguments: list[str], page: _Writer) -> str:
    """Convert a line of mdoc, whose words may be macros again."""
    parts: list[str] = []
    closing: list[str] = []
    glue = True  # whether the next word follows without a space

    def put(word: str, *, tight: bool = False) -> None:
        nonlocal glue
        if word:
            parts.append(word if glue or tight else f" {word}")
            glue = False

    mode = ""
    words = list(arguments)
    for number, argument in enumerate(words):
        if argument in _ENCLOSURES and argument != "Qc":
            pair = _ENCLOSURES[argument]
            put(pair[0])
            glue = True
            if argument[-1] != "o":
                closing.append(pair[1])
            mode = ""
        elif argument in _CLOSERS:
            put(_CLOSERS[argument], tight=True)
            mode = ""
        elif argument in ("Ns", "Ap", "Pf"):
            if argument == "Ap":
                put("'", tight=True)
            glue = argument != "Pf"
            mode = argument
        elif argument in _SYSTEMS:
            put(_SYSTEMS[argument])
            mode = ""
        elif argument in _PLAIN:
            mode = argument
            following = words[number + 1] if number + 1 < len(words) else ""
            bare = not following or following in _PUNCTUATION or following in _PLAIN
            if argument == "Nm" and bare:
                put(page.name)
            elif argument == "Fl" and bare:
                put("-")
                glue = following in _PLAIN
        elif argument in _PUNCTUATION:
            while closing and number + 1 == len(words) and len(argument) == 1:
                put(closing.pop(), tight=True)
            put(argument, tight=True)
        else:
            word = _plain(argument)
            if mode == "Fl":
                word = f"-{word}"
            elif mode == "Xr" and number and words[number - 1] != "Xr":
                word, glue = f"({word})", True
                mode = ""
            put(word)
            if mode == "Pf":
                glue, mode = True, ""
            elif argument == "(":
                glue = True
    for close in reversed(closing):
        put(close, tight=True)
    return "".join(parts)


def _plain(text: str) -> str:
    """Remove escapes from a text."""
    return _ESCAPE.sub(_character, text) if "\\" in text else text


def _character(escape: re.Match[str]) -> str:
    """Return the text for an escape."""
    name = escape["name"] or escape["two"]
    if name is not None:
        if found := _UNICODE.fullmatch(name):
            number = int(found[1], 16)
            return chr(number) if number <= 0x10FFFF else ""
        if name in _NAMED:
            return _NAMED[name]
        # An accent and a letter, as in \[:u].
        return name[1] + _ACCENTS[name[0]] if len(name) == 2 and name[0] in _ACCENTS else ""
    if escape["string"] is not None and escape[0][1] == "*":
        return _STRINGS.get(escape["string"].strip("[](").strip(), "")
    return _ONE.get(escape["one"] or "", "")
