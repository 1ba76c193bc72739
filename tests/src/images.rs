//! Images for the tests: the user's default one, and some that only tests want.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use sandbox_image::manifest::Blob;
use sandbox_image::progress::{Silent, Step};
use sandbox_image::store::{Content, Description, Parts};
use sandbox_image::{DEFAULT_IMAGE, Image};

/// The image with Debian's stock kernel, which finds its devices by ACPI and modules.
pub const STOCK: &str = "stock-debian";

/// The image whose initramfs holds nothing that could run: its kernel panics.
pub const NO_INIT: &str = "no-init";

/// A folder with images.
#[derive(Debug)]
pub struct Store {
    store: sandbox_image::Store,
}

impl Store {
    /// Opens the store that `sovereign` uses in this environment.
    ///
    /// # Errors
    ///
    /// If there is no place for one, or others may write to it.
    pub fn of_this_user() -> Result<Self> {
        Ok(Self {
            store: sandbox_image::Store::open_default()?,
        })
    }

    /// Returns its folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.store.root()
    }

    /// Returns whether the default image is there.
    #[must_use]
    pub fn has_default(&self) -> bool {
        self.store.inspect(DEFAULT_IMAGE).is_ok()
    }

    /// Returns the files of the default image, which need not be intact.
    ///
    /// # Errors
    ///
    /// If there is no such image.
    pub fn default_parts(&self) -> Result<Files> {
        let manifest = self.store.inspect(DEFAULT_IMAGE)?;
        let [kernel, initramfs, rootfs] = manifest.blobs().map(|blob| {
            self.store
                .root()
                .join("blobs/sha256")
                .join(blob.digest.to_hex())
        });
        Ok(Files {
            kernel,
            initramfs,
            rootfs,
        })
    }

    /// Makes `target` a store with a copy of the default image alone.
    ///
    /// # Errors
    ///
    /// If files cannot be copied.
    pub fn copy_default_to(&self, target: &Path) -> Result<Self> {
        let root = self.store.root();
        let manifest = format!("images/{DEFAULT_IMAGE}.json");
        for folder in ["blobs/sha256", "images", "tmp"] {
            fs::create_dir_all(target.join(folder)).context("cannot make a store")?;
        }
        let files = self.default_parts()?;
        for file in [
            &files.kernel,
            &files.initramfs,
            &files.rootfs,
            &root.join(manifest),
        ] {
            let to = target.join(
                file.strip_prefix(root)
                    .context("a blob outside its store")?,
            );
            copy(file, &to)?;
        }
        Ok(Self {
            store: sandbox_image::Store::open(target)?,
        })
    }

    /// Makes `target` a store with the default image and the one whose guest has no init.
    ///
    /// # Errors
    ///
    /// If there is no default image, or files cannot be read or written.
    pub fn prepare_for_tests(&self, target: &Path) -> Result<Self> {
        let image = self.store.find(DEFAULT_IMAGE)?;
        if target.exists() {
            fs::remove_dir_all(target).context("cannot remove the tests' old store")?;
        }
        let made = self.copy_default_to(target)?;
        made.publish_without_init(&image)?;
        Ok(made)
    }

    fn publish_without_init(&self, image: &Image) -> Result<()> {
        let manifest = self.store.inspect(DEFAULT_IMAGE)?;
        let file = |path, blob: &Blob| Content::File {
            path,
            digest: Some(blob.digest),
        };
        let parts = Parts {
            kernel: file(&image.kernel, &manifest.kernel.blob),
            initramfs: Content::Bytes(&empty_archive()),
            rootfs: file(&image.rootfs, &manifest.rootfs.blob),
            description: Description {
                kernel_release: manifest.kernel.release,
                cmdline: image.cmdline.clone(),
                discovery: manifest.kernel.discovery,
                agent_release: manifest.initramfs.agent_release,
                agent_protocol: manifest.initramfs.agent_protocol,
                contents: manifest.rootfs.contents,
            },
        };
        let step = Step::begin(&Silent, "storing a test image");
        self.store.publish(NO_INIT, &parts, &step)?;
        Ok(())
    }
}

/// The files of an image.
#[derive(Debug, Clone)]
pub struct Files {
    /// The guest kernel.
    pub kernel: std::path::PathBuf,
    /// The initramfs.
    pub initramfs: std::path::PathBuf,
    /// The root file system.
    pub rootfs: std::path::PathBuf,
}

/// Copies a file with its holes.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let failed = || format!("cannot copy {}", from.display());
    let mut source = File::open(from).with_context(failed)?;
    let mut target = File::create(to).with_context(failed)?;
    let length = source.metadata()?.len();
    let mut at = 0;
    while at < length {
        let data = match seek(&source, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Nothing but a hole is left.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error).with_context(failed),
        };
        at = seek(&source, SeekFrom::Hole(data)).with_context(failed)?;
        seek(&source, SeekFrom::Start(data)).with_context(failed)?;
        seek(&target, SeekFrom::Start(data)).with_context(failed)?;
        io::copy(&mut (&mut source).take(at - data), &mut target).with_context(failed)?;
    }
    target.set_len(length)?;
    target.set_permissions(source.metadata()?.permissions())?;
    Ok(())
}

/// A cpio archive (format newc) with nothing in it.
fn empty_archive() -> Vec<u8> {
    let fields = format!("070701{:08X}{:0>80}{:08X}{:08X}", 0, "", 11, 0);
    let mut archive = fields.into_bytes();
    archive.extend_from_slice(b"TRAILER!!!\0");
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_archive_has_a_whole_header() {
        let archive = empty_archive();
        assert!(archive.starts_with(b"070701"));
        assert_eq!(&archive[110..121], b"TRAILER!!!\0");
        assert_eq!(archive.len() % 4, 0);
    }

    #[test]
    fn copies_have_the_same_bytes_and_holes() {
        use std::os::unix::fs::MetadataExt;

        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let mut file = File::create(&from).unwrap();
        io::Write::write_all(&mut file, b"start").unwrap();
        seek(&file, SeekFrom::Start(8 << 20)).unwrap();
        io::Write::write_all(&mut file, b"middle").unwrap();
        file.set_len(16 << 20).unwrap();
        copy(&from, &to).unwrap();
        assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap());
        assert!(fs::metadata(&to).unwrap().blocks() <= fs::metadata(&from).unwrap().blocks());
    }
}
