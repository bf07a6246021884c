"""Renders the templates of the chart without Helm.

Only what the chart uses of the language of Go's text/template and of Helm's functions is understood:
`if`, `else`, `end`, `define`, fields, pipelines, and the functions below. Everything else, and a field
that does not exist, is an error: the chart stays readable, and nothing is rendered in another way than
Helm would without being noticed.
"""

import hashlib
import json
import re

import yaml

ACTION = re.compile(r"\{\{(-?)\s*(.*?)\s*(-?)\}\}", re.S)
WORD = re.compile(r'\s*("(?:[^"\\]|\\.)*"|\(|\)|\||[^\s()|"]+)')


class Unsupported(Exception):
    """A template uses something that is not understood."""


class Templates:
    """The templates of a chart, which may include each other."""

    def __init__(self, files):
        """Takes the texts of the files by name."""
        self.defined = {}
        self.files = {name: self._parse(name, text) for name, text in files.items()}

    def render(self, name, root):
        """The text that a file makes of the values below `.`."""
        return self._run(self.files[name], root)

    def _parse(self, name, text):
        body, stack = [], []
        for kind, content in tokens(text):
            if kind == "text":
                body.append(("text", content))
                continue
            words = content.split(None, 1)
            match words[0] if words else "":
                case "define":
                    if stack:
                        raise Unsupported(f"{name}: a define inside of {stack[-1][0]}")
                    stack.append(("define", json.loads(words[1]), body))
                    body = []
                case "if":
                    stack.append(("if", words[1], body))
                    body = []
                case "else":
                    if content != "else" or not stack or stack[-1][0] != "if":
                        raise Unsupported(f"{name}: {{{{ {content} }}}}")
                    stack.append(("else", body, None))
                    body = []
                case "end":
                    body = self._end(name, stack, body)
                case _:
                    body.append(("value", content))
        if stack:
            raise Unsupported(f"{name}: no end of {stack[-1][0]}")
        return body

    def _end(self, name, stack, body):
        """Closes a block, and returns the list of which it is a part."""
        if not stack:
            raise Unsupported(f"{name}: an end of nothing")
        otherwise = []
        kind, argument, outer = stack.pop()
        if kind == "else":
            otherwise, body = body, argument
            kind, argument, outer = stack.pop()
        if kind == "define":
            self.defined[argument] = body
        else:
            outer.append(("if", argument, body, otherwise))
        return outer

    def _run(self, body, root):
        out = []
        for node in body:
            match node:
                case ("text", text):
                    out.append(text)
                case ("value", expression):
                    out.append(written(self._evaluate(expression, root)))
                case ("if", condition, then, otherwise):
                    chosen = then if self._evaluate(condition, root) else otherwise
                    out.append(self._run(chosen, root))
        return "".join(out)

    def _evaluate(self, expression, root):
        words = WORD.findall(expression)
        if "".join(words) != re.sub(r'\s+(?=(?:[^"]*"[^"]*")*[^"]*$)', "", expression):
            raise Unsupported(f"{{{{ {expression} }}}}")
        value = self._pipeline(words, root)
        if words:
            raise Unsupported(f"{{{{ {expression} }}}}: {' '.join(words)}")
        return value

    def _pipeline(self, words, root):
        value = self._command(words, root, [])
        while words and words[0] == "|":
            words.pop(0)
            value = self._command(words, root, [value])
        return value

    def _command(self, words, root, piped):
        function, arguments = None, []
        while words and words[0] not in ("|", ")"):
            word = words.pop(0)
            if word == "(":
                arguments.append(self._pipeline(words, root))
                if not words or words.pop(0) != ")":
                    raise Unsupported("a parenthesis is not closed")
            elif word.startswith('"'):
                arguments.append(json.loads(word))
            elif word.isdigit():
                arguments.append(int(word))
            elif word.startswith("."):
                arguments.append(field(root, word))
            elif function is None and not arguments:
                function = word
            else:
                raise Unsupported(f"{word} after {arguments}")
        arguments += piped
        if function == "include":
            name, root = arguments
            return self._run(self.defined[name], root)
        if function is not None:
            if function not in FUNCTIONS:
                raise Unsupported(f"the function {function}")
            return FUNCTIONS[function](*arguments)
        (value,) = arguments
        return value


def tokens(text):
    """Texts and actions in turn. `-` takes the white space on its side away."""
    end, trim = 0, False
    for action in ACTION.finditer(text):
        before = text[end : action.start()]
        before = before.lstrip() if trim else before
        yield "text", before.rstrip() if action[1] else before
        yield "action", action[2]
        end, trim = action.end(), bool(action[3])
    yield "text", text[end:].lstrip() if trim else text[end:]


def field(root, path):
    """The value at a path such as `.Values.image.tag`."""
    value = root
    for name in path.split(".")[1:]:
        if not name:
            continue
        if name not in value:
            raise Unsupported(f"there is no {path}")
        value = value[name]
    return value


def written(value):
    """A value as Go writes it, if it is of a kind that Go and YAML write alike."""
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise Unsupported(f"{value!r} is not written as text: use toYaml")
    return str(value)


def nindent(width, text):
    return "\n" + "\n".join(" " * width + line for line in text.split("\n"))


def found(pattern, text):
    match = re.search(pattern, text)
    return match[0] if match else ""


FUNCTIONS = {
    "default": lambda otherwise, value: value or otherwise,
    "nindent": nindent,
    "not": lambda value: not value,
    "or": lambda *values: next((value for value in values if value), values[-1]),
    "quote": lambda value: json.dumps(written(value)),
    "regexFind": found,
    "replace": lambda old, new, text: text.replace(old, new),
    "sha256sum": lambda text: hashlib.sha256(text.encode()).hexdigest(),
    "toYaml": lambda value: yaml.safe_dump(value, default_flow_style=False).rstrip("\n"),
}
