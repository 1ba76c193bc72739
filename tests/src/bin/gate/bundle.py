# Packs pytest, what it needs, and the tests in a folder ($1) into a tar archive ($2), for a sandbox that
# has Python and no pytest.
import importlib.util
import os
import sys
import tarfile

# What the versions of pytest that distributions have import; not every one needs all of them.
MODULES = ["pytest", "_pytest", "pluggy", "iniconfig", "packaging", "py", "attr", "attrs", "pygments",
           "exceptiongroup", "tomli"]


def plain(member):
    if os.path.basename(member.name) == "__pycache__" or member.name.endswith(".so"):
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


with tarfile.open(sys.argv[2], "w") as archive:
    for name in MODULES:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:
            continue
        folder, file = os.path.split(found.origin)
        path = folder if file == "__init__.py" else found.origin
        archive.add(path, f"site/{os.path.basename(path)}", filter=plain)
    archive.add(sys.argv[1], "tests", filter=plain)
