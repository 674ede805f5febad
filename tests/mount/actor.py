"""A process that does what it is told: `python actor.py DIRECTORY`, an order a line, in Python.

Answers ("value", ...), ("value", "EXXX") for an OSError, or ("error", traceback).
"""

import ast
import os
import sys
import traceback

from shmfs.conformance import tools


def main() -> None:
    os.chdir(sys.argv[1])
    names = {name: getattr(tools, name) for name in dir(tools)}
    exec("import os, hashlib, mmap, random, signal, fcntl, time, threading", names)
    print("ready", flush=True)
    for line in sys.stdin:
        code = ast.literal_eval(line)
        try:
            tree = ast.parse(code)
            last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None

            def run(tree: ast.Module = tree, last: ast.Expr | None = last) -> object:
                exec(compile(tree, "order", "exec"), names)
                return eval(compile(ast.Expression(last.value), "order", "eval"), names) if last else None

            said = repr(("value", tools.tried(run)))
            try:
                ast.literal_eval(said)
            except (SyntaxError, ValueError):
                said = repr(("value", "something that cannot be told"))
        except BaseException:
            said = repr(("error", traceback.format_exc()))
        print(said, flush=True)


if __name__ == "__main__":
    main()
