# Runs inside a finished root file system, as root. Prints what is in it as `fact NAME VALUE`;
# ends with an error that says what is missing otherwise. Needs no mounts and no network.
set -eu
LANG=C.UTF-8
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LANG PATH

fail() {
    echo "contract: $*"
    exit 1
}

for tool in sh bash env cat ls cp mv rm mkdir chmod find xargs grep sed awk sort head tail cut tr wc \
    date sleep timeout sha256sum tar gzip bzip2 xz unzip curl ps pgrep pkill free top id python3; do
    command -v "$tool" > /dev/null || fail "$tool is not there"
done
for folder in /dev /proc /sys /run /tmp /var/tmp /home /root /mnt /opt /srv; do
    test -d "$folder" || fail "$folder is no folder"
done
for folder in /tmp /var/tmp; do
    test "$(stat -c %a "$folder")" = 1777 || fail "not everyone may write to $folder"
done
test "$(id -u sandbox):$(id -g sandbox)" = 1000:1000 || fail "user sandbox is not 1000:1000"
test "$(stat -c %u:%g /home/sandbox)" = 1000:1000 || fail "/home/sandbox is not the user's"
test "$(locale charmap)" = UTF-8 || fail "the locale C.UTF-8 is not there"
test -s /etc/ld.so.cache || fail "/etc/ld.so.cache is not there"
test -s /etc/ssl/certs/ca-certificates.crt || fail "no certificates"
test -z "$(find / -xdev -perm /6000 -type f)" || fail "there are set-id programs"
test -z "$(find /usr/share/man /usr/share/locale -type f 2> /dev/null | head -n 1)" ||
    fail "there are manuals or locales"
left=$(find /var/cache /var/lib/apt/lists /var/log /run /tmp /var/tmp -type f ! -name lock)
test -z "$left" || fail "these were left behind:" $left
curl --version | grep -q '^Protocols:.* https' || fail "curl has no https"
python3 -c '
import sys
assert sys.version_info >= (3, 11), "python is older than 3.11: " + sys.version
import asyncio, bz2, ctypes, csv, decimal, email, ensurepip, hashlib, http.client, json, lzma, math
import multiprocessing, re, select, socket, sqlite3, ssl, subprocess, tarfile, threading, tomllib
import unicodedata, urllib.request, uuid, venv, xml.etree.ElementTree, zipfile, zlib, zoneinfo
zoneinfo.ZoneInfo("Europe/Berlin")
assert sys.getfilesystemencoding() == "utf-8"
import os.path
cached = json.__cached__
assert os.path.exists(cached), "no byte code: " + cached
with open(cached, "rb") as file:
    assert file.read(8)[4:] == b"\1\0\0\0", "byte code that looks at its source: " + cached
' || fail "python3 does not do what it should"
python3 -c '
import os.path
import apts.model
import terminai_apts.action.cleanup, terminai_apts.action.files
from terminai_apts.model import ObjectTableLabels
assert [label.value for label in ObjectTableLabels] == ["KEEP", "DELETE", "TRANSIT", "ARCHIVE", "UNKNOWN"]
assert os.path.exists(terminai_apts.model.__cached__), "no byte code"
owner = os.stat(terminai_apts.__file__)
assert (owner.st_uid, owner.st_gid, owner.st_mode & 0o022) == (0, 0, 0), owner
' || fail "T-APTS is not what it should be"

. /etc/os-release
echo "fact system $PRETTY_NAME"
echo "fact version $(cat /etc/debian_version)"
echo "fact python $(python3 -c 'import platform; print(platform.python_version())')"
dpkg-query -W -f 'fact package ${Package} ${Version}\n'
echo "fact package terminai-apts $(python3 -c 'import terminai_apts; print(terminai_apts.__version__)')"
