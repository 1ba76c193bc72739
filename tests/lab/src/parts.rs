//! What the lab is made of: a stock kernel with KVM's modules, and busybox, out of Debian packages.
//!
//! Nothing is installed and nothing needs root: packages are downloaded by `apt-get download`,
//! unpacked by `dpkg-deb -x`, or taken from Debian's archive where this machine's own package index does
//! not know them, and what is used of them is kept in the cache, keyed by the kernel's
//! version.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use sandbox_image::archive::extract;
use sandbox_image::progress::{Silent, Step};

use crate::tools::{APT_CACHE, APT_GET, DPKG_DEB, cache_dir, output_of};

/// What the lab's own kernel loads for `/dev/kvm`, in order.
const HOST_MODULES: &[&str] = &["irqbypass", "kvm", "kvm-amd"];

/// What a *guest* with the stock kernel loads to find its devices and its root, in order.
const GUEST_MODULES: &[&str] = &[
    "libcrc32c",
    "virtio_mmio",
    "virtio_blk",
    "virtio-rng",
    "vsock",
    "vmw_vsock_virtio_transport_common",
    "vmw_vsock_virtio_transport",
    "erofs",
    "overlay",
];

/// The kernel series the lab runs, as the start of a package name.
const KERNEL_PACKAGE: &str = "linux-image-6.12.";
const KERNEL_FLAVOUR: &str = "-cloud-amd64";

/// What brings it where this machine's own index knows none.
const KERNEL_METAPACKAGE: &str = "linux-image-6.12-cloud-amd64";

const BUSYBOX_PACKAGE: &str = "busybox-static";

/// The unpacked parts, in the cache.
#[derive(Debug, Clone)]
pub struct Parts {
    dir: PathBuf,
}

impl Parts {
    /// Returns the cached parts, downloading them if there are none.
    ///
    /// # Errors
    ///
    /// If a download or unpacking fails.
    pub fn ensure() -> Result<Self> {
        let root = cache_dir()?.join("lab");
        match newest_cached(&root) {
            Some(dir) => Ok(Self { dir }),
            None => Self::fetch(),
        }
    }

    /// Makes the cache hold the newest kernel that the package index knows.
    ///
    /// # Errors
    ///
    /// As for [`Parts::ensure`].
    pub fn fetch() -> Result<Self> {
        let root = cache_dir()?.join("lab");
        let known = newest_kernel_package()?;
        let cached = known
            .as_deref()
            .map(|package| root.join(release_of(package)));
        if let Some(dir) = cached.filter(|dir| dir.is_dir()) {
            return Ok(Self { dir });
        }
        fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
        let work = tempfile::tempdir_in(&root).context("cannot make a work folder")?;
        let release = match known {
            Some(package) => {
                eprintln!("lab: downloading {package} and {BUSYBOX_PACKAGE}");
                download(work.path(), &[&package, BUSYBOX_PACKAGE])?;
                release_of(&package).to_owned()
            }
            None => {
                eprintln!("lab: taking {KERNEL_METAPACKAGE} and {BUSYBOX_PACKAGE} from Debian");
                take_from_debian(work.path())?
            }
        };
        let dir = root.join(&release);
        let kept = work.path().join("kept");
        keep(&work.path().join("unpacked"), &release, &kept)?;
        // Two builders may race: both made the same thing, and either is good.
        if let Err(error) = fs::rename(&kept, &dir)
            && !dir.is_dir()
        {
            return Err(error).with_context(|| format!("cannot make {}", dir.display()));
        }
        Ok(Self { dir })
    }

    /// Returns the stock kernel, a bzImage.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    /// Returns busybox, a static binary.
    #[must_use]
    pub fn busybox(&self) -> PathBuf {
        self.dir.join("busybox")
    }

    /// Returns KVM's modules, in the order in which they load.
    #[must_use]
    pub fn host_modules(&self) -> Vec<PathBuf> {
        HOST_MODULES.iter().map(|name| self.module(name)).collect()
    }

    /// Returns the modules that a guest with the stock kernel needs, in the order in which they load.
    #[must_use]
    pub fn guest_modules(&self) -> Vec<PathBuf> {
        GUEST_MODULES.iter().map(|name| self.module(name)).collect()
    }

    fn module(&self, name: &str) -> PathBuf {
        self.dir.join("modules").join(format!("{name}.ko"))
    }
}

/// Returns the folder of the newest kernel in the cache.
fn newest_cached(root: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(root).ok()?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let newest = names
        .filter(|name| name.ends_with(KERNEL_FLAVOUR))
        .max_by_key(|name| version_key(name))?;
    Some(root.join(newest))
}

/// The newest kernel that this machine's package index knows.
fn newest_kernel_package() -> Result<Option<String>> {
    let listing = output_of(APT_CACHE.command()?.args(["pkgnames", KERNEL_PACKAGE]))?;
    let listing = String::from_utf8_lossy(&listing);
    let newest = listing
        .lines()
        .filter(|name| name.starts_with(KERNEL_PACKAGE) && name.ends_with(KERNEL_FLAVOUR))
        .max_by_key(|name| version_key(name));
    Ok(newest.map(str::to_owned))
}

fn release_of(package: &str) -> &str {
    package.trim_start_matches("linux-image-")
}

/// The numbers in a version, for comparing: `6.12.9+deb12` is older than `6.12.10+deb12`.
fn version_key(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

/// Downloads packages to `work` and unpacks them in `work/unpacked`.
fn download(work: &Path, packages: &[&str]) -> Result<()> {
    output_of(
        APT_GET
            .command()?
            .current_dir(work)
            .args(["-q", "download"])
            .args(packages),
    )?;
    let entries = fs::read_dir(work).context("cannot list the downloads")?;
    let archives: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect();
    ensure!(
        archives.len() == packages.len(),
        "apt-get downloaded {} files",
        archives.len()
    );
    for archive in archives {
        output_of(
            DPKG_DEB
                .command()?
                .arg("-x")
                .arg(&archive)
                .arg(work.join("unpacked")),
        )?;
    }
    Ok(())
}

/// Takes the packages from Debian's archive, unpacks them in `work/unpacked`, and returns the
/// kernel's release.
fn take_from_debian(work: &Path) -> Result<String> {
    let packed = work.join("packages.tar");
    let step = Step::begin(&Silent, "taking packages");
    extract(&[KERNEL_METAPACKAGE, BUSYBOX_PACKAGE], &packed, &step)?;
    let unpacked = work.join("unpacked");
    fs::create_dir(&unpacked).context("cannot make a folder")?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--no-same-owner", "--exclude=./dev/*"])
        .arg("--directory")
        .arg(&unpacked)
        .arg("--file")
        .arg(&packed);
    output_of(&mut tar)?;
    let entries = fs::read_dir(unpacked.join("boot")).context("cannot list the kernels")?;
    let mut names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names
        .find_map(|name| name.strip_prefix("vmlinuz-").map(str::to_owned))
        .with_context(|| format!("{KERNEL_METAPACKAGE} brought no kernel"))
}

/// Copies what the lab uses out of the unpacked packages.
fn keep(unpacked: &Path, release: &str, kept: &Path) -> Result<()> {
    fs::create_dir_all(kept.join("modules")).context("cannot make the parts' folder")?;
    let busybox = ["bin/busybox", "usr/bin/busybox"]
        .map(|path| unpacked.join(path))
        .into_iter()
        .find(|path| path.is_file())
        .context("busybox-static holds no busybox")?;
    copy(&busybox, &kept.join("busybox"))?;
    copy(
        &unpacked.join("boot").join(format!("vmlinuz-{release}")),
        &kept.join("vmlinuz"),
    )?;
    let modules = ["lib/modules", "usr/lib/modules"]
        .map(|path| unpacked.join(path).join(release))
        .into_iter()
        .find(|path| path.is_dir())
        .context("the kernel package holds no modules")?;
    for name in HOST_MODULES.iter().chain(GUEST_MODULES) {
        let target = kept.join("modules").join(format!("{name}.ko"));
        unpack_module(&busybox, &modules, name, &target)?;
    }
    Ok(())
}

/// Writes the module `name`, uncompressed, to `target`: busybox' `insmod` wants it so.
fn unpack_module(busybox: &Path, modules: &Path, name: &str, target: &Path) -> Result<()> {
    let plain = format!("{name}.ko");
    let compressed = format!("{name}.ko.xz");
    let found = find_file(modules, &|file| file == plain || file == compressed)?
        .with_context(|| format!("the kernel package holds no module {name}"))?;
    if found.extension().is_some_and(|extension| extension == "ko") {
        return copy(&found, target);
    }
    let file = fs::File::create(target).context("cannot write a module")?;
    let status = Command::new(busybox)
        .arg("xzcat")
        .arg(&found)
        .stdin(Stdio::null())
        .stdout(file)
        .status()
        .context("cannot start busybox")?;
    ensure!(
        status.success(),
        "cannot decompress {}: {status}",
        found.display()
    );
    Ok(())
}

fn find_file(dir: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let entry = entry.context("cannot list a folder")?;
        let kind = entry.file_type().context("cannot tell a file's type")?;
        if kind.is_dir() {
            if let Some(found) = find_file(&entry.path(), wanted)? {
                return Ok(Some(found));
            }
        } else if entry.file_name().to_str().is_some_and(wanted) {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if !from.is_file() {
        bail!("{} is missing from its package", from.display());
    }
    fs::copy(from, to).with_context(|| format!("cannot write {}", to.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        let older = version_key("linux-image-6.12.9+deb12-cloud-amd64");
        let newer = version_key("linux-image-6.12.101+deb12-cloud-amd64");
        assert!(older < newer);
    }

    #[test]
    fn newest_cached_kernel_wins_and_other_folders_do_not_count() {
        let root = tempfile::tempdir().unwrap();
        for name in [
            "6.12.9+deb12-cloud-amd64",
            "6.12.41+deb13-cloud-amd64",
            ".tmpX",
            "runs",
        ] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        let newest = newest_cached(root.path()).unwrap();
        assert_eq!(newest, root.path().join("6.12.41+deb13-cloud-amd64"));
    }

    #[test]
    fn empty_cache_has_no_parts() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(newest_cached(root.path()), None);
        assert_eq!(newest_cached(&root.path().join("missing")), None);
    }
}
