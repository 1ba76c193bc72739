# Runs on the new root file system, given as $1, before it is packed.
set -eu
root=$1
cd /  # in a user namespace, the folder of the build may be closed to us

# Who commands run as. The numbers are part of the contract with the engine.
echo 'sandbox:x:1000:1000:Sandbox,,,:/home/sandbox:/bin/bash' >> "$root/etc/passwd"
echo 'sandbox:!:1::::::' >> "$root/etc/shadow"
echo 'sandbox:x:1000:' >> "$root/etc/group"
echo 'sandbox:!::' >> "$root/etc/gshadow"
cp -rT "$root/etc/skel" "$root/home/sandbox"
chown -R 1000:1000 "$root/home/sandbox"
chmod 0750 "$root/home/sandbox"

# mmdebstrap copies these from the machine that builds.
echo sandbox > "$root/etc/hostname"
printf '127.0.0.1\tlocalhost sandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n' > "$root/etc/hosts"
echo '# A sandbox has no network unless it is given one; name servers are written here then.' \
    > "$root/etc/resolv.conf"
mkdir -p "$root/etc/default"
echo 'LANG=C.UTF-8' > "$root/etc/default/locale"
: > "$root/etc/machine-id"

# A sandboxed command never gains privileges, so a set-id bit could only mislead.
find "$root" -xdev -perm /6000 -type f -exec chmod u-s,g-s {} +

# Looks for a crash reporter on each start of Python, in every folder of its path.
rm -f "$root"/etc/python3*/sitecustomize.py "$root"/usr/lib/python3*/sitecustomize.py

# Byte code that is taken without a look at its source: packing sets all file times to one moment,
# which would make the usual time-stamped byte code stale, and every start would compile anew.
find "$root/usr/lib" -name __pycache__ -prune -exec rm -rf {} +
chroot "$root" python3 -m compileall -q -f --invalidation-mode unchecked-hash \
    /usr/lib/python3*/

# What only an administrator or a package manager would read. Licences stay.
find "$root/usr/share/doc" -mindepth 1 ! -type d ! -name copyright -delete
find "$root/usr/share/doc" -mindepth 1 -type d -empty -delete
for folder in man info locale lintian bash-completion zsh bug doc-base pixmaps; do
    rm -rf "${root:?}/usr/share/$folder"
done
rm -rf "$root"/var/cache/debconf/* "$root"/var/lib/dpkg/*-old "$root"/etc/*- "$root"/etc/.pwd.lock
rm -rf "$root"/etc/apt/sources.list* "$root"/etc/apt/apt.conf.d/99mmdebstrap \
    "$root"/etc/dpkg/dpkg.cfg.d/99mmdebstrap
# Not /tmp, /var/lib/apt and /var/cache/apt: mmdebstrap clears them itself, with a configuration
# that it keeps in /tmp, and without that it would clear those of the machine that builds.
find "$root/var/log" "$root/run" "$root/var/tmp" -mindepth 1 -delete
chroot "$root" ldconfig -X
rm -f "$root"/var/cache/ldconfig/*
