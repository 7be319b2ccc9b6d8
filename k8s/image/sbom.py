#!/usr/bin/env python3
"""The bill of materials of the program: CycloneDX 1.5 as JSON, from what Cargo.lock pins. Usage: sbom.py [TARGET] > FILE

Every crate that is compiled for the target, build scripts' ones included and tests' ones not, with its version, licence
and checksum. The same input gives the same bytes: no date, no random number.
"""

import json
import re
import subprocess
import sys
import tomllib
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = sys.argv[1] if len(sys.argv) > 1 else "x86_64-unknown-linux-musl"


def main():
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", TARGET]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    locked = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    checksums = {(package["name"], package["version"]): package.get("checksum") for package in locked}

    def needs(node):
        """What it is built from; not what only its tests need."""
        return sorted({dependency["pkg"] for dependency in nodes[node]["deps"]
                       if any(kind["kind"] != "dev" for kind in dependency["dep_kinds"])})

    root = metadata["resolve"]["root"]
    found, waiting = {root}, [root]
    while waiting:
        for dependency in needs(waiting.pop()):
            if dependency not in found:
                found.add(dependency)
                waiting.append(dependency)

    def reference(package):
        return f"pkg:cargo/{package['name']}@{package['version']}"

    def component(package, kind="library"):
        entry = {"type": kind, "bom-ref": reference(package), "name": package["name"], "version": package["version"],
                 "purl": reference(package)}
        if package["license"]:
            # Old crates write MIT/Apache-2.0.
            entry["licenses"] = [{"expression": re.sub(r"\s*/\s*", " OR ", package["license"])}]
        checksum = checksums.get((package["name"], package["version"]))
        if checksum:
            entry["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        if package["repository"]:
            entry["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
        return entry

    order = sorted(found, key=lambda one: (packages[one]["name"], packages[one]["version"]))
    components = [component(packages[one]) for one in order if one != root]
    text = json.dumps(components, sort_keys=True)
    whole = {
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        # Names the content, so that two builds of the same have one name.
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, text)}",
        "metadata": {"component": component(packages[root], "application"),
                     "properties": [{"name": "cargo:target", "value": TARGET}]},
        "components": components,
        "dependencies": [{"ref": reference(packages[one]), "dependsOn": [reference(packages[need]) for need in needs(one)]}
                         for one in order],
    }
    json.dump(whole, sys.stdout, indent=1)
    print()


main()
