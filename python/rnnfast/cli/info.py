"""`rnnfast info`: what this installation is, and what it found in this machine."""

from __future__ import annotations

import argparse
import json
from typing import Any

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    parser = commands.add_parser("info", help="version, instruction sets, threads of this installation")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=_info)


def _info(args: argparse.Namespace) -> int:
    import rnnfast

    found = rnnfast.info()
    if args.json:
        print(json.dumps(found, indent=2, default=str))
        return 0
    width = max(len(str(name)) for name in found)
    for name, value in found.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
        print(f"{name:<{width}}  {shown}")
    return 0
