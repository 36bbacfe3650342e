"""Fail if a test that needs torch was skipped, or if there was none: python scripts/no_torch_skips.py results.xml"""

import sys
import xml.etree.ElementTree as ET


def main(path: str) -> int:
    cases = list(ET.parse(path).iter("testcase"))
    names = {case: f"{case.get('classname')}::{case.get('name')}" for case in cases}
    skipped = []
    for case in cases:
        for skip in case.iter("skipped"):
            reason = f"{skip.get('message') or ''} {skip.text or ''}"
            if "torch" in names[case].lower() or "torch" in reason.lower():
                skipped.append(f"{names[case]}: {skip.get('message')}")
    if skipped:
        print(f"{len(skipped)} torch tests were skipped:", *skipped, sep="\n  ", file=sys.stderr)
        return 1
    if not any("torch" in name.lower() for name in names.values()):
        print("no torch test was run", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
