//! Builds an image: kernel, root file system and initramfs, each only if its inputs changed.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use crate::agent::{Agent, AgentError};
use crate::cache::{Cache, CacheError};
use crate::digest::Digest;
use crate::erofs::{self, ErofsError};
use crate::image::{DEFAULT_IMAGE, Image};
use crate::initramfs::{self, InitramfsError};
use crate::kernel::{self, KernelError, Source};
use crate::manifest::{Discovery, Userland};
use crate::own_kernel::{self, OwnKernel, OwnKernelError};
use crate::progress::{Progress, Step};
use crate::rootfs::{self, RootfsError};
use crate::store::{Content, Description, Parts, Store, StoreError};

/// What to build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildOptions {
    /// The image's name.
    pub name: String,
    /// The agent's static binary, which becomes the guest's init.
    pub agent: PathBuf,
    /// A kernel to use in place of the one that is built.
    pub kernel: Option<PathBuf>,
    /// Drivers of such a kernel that the guest needs to reach its disk and its host, in the order
    /// in which they are to be loaded.
    pub modules: Vec<PathBuf>,
    /// A root file system (EROFS) to use in place of the one that is built.
    pub rootfs: Option<PathBuf>,
    /// Build the root file system anew, from the packages that the archive has now, and store the
    /// image anew. The kernel follows exactly from its source: building it again changes nothing.
    pub force: bool,
}

impl BuildOptions {
    /// The image that is run when none is named, with this agent.
    #[must_use]
    pub fn new(agent: PathBuf) -> Self {
        Self {
            name: DEFAULT_IMAGE.to_owned(),
            agent,
            kernel: None,
            modules: Vec::new(),
            rootfs: None,
            force: false,
        }
    }
}

/// An image could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The agent cannot be an init.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The kernel could not be built.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The user's kernel cannot be used.
    #[error(transparent)]
    OwnKernel(#[from] OwnKernelError),
    /// The root file system could not be built.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// The user's root file system cannot be used.
    #[error(transparent)]
    OwnRootfs(#[from] ErofsError),
    /// The initramfs could not be made.
    #[error(transparent)]
    Initramfs(#[from] InitramfsError),
    /// The image could not be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The image was examined, and refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The build cache could not be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A file could not be read.
    #[error("cannot read {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Why an image that was built is not published.
#[derive(Debug, thiserror::Error)]
#[error("the image that was built does not keep its contract and is not published")]
pub struct Refusal(#[source] Box<dyn Error + Send + Sync>);

impl Refusal {
    /// The refusal for this reason.
    pub fn new(reason: impl Error + Send + Sync + 'static) -> Self {
        Self(Box::new(reason))
    }
}

/// Builds an image and stores it under its name, if `examine` does not refuse it, which gets it under
/// a name of its own. What an earlier build made of the same inputs is used again; if nothing changed
/// at all, the stored image is verified and returned.
///
/// # Errors
/// What could not be built, and what to do.
pub fn build(
    store: &Store,
    options: &BuildOptions,
    examine: &mut dyn FnMut(&Image) -> Result<(), Refusal>,
    progress: &dyn Progress,
) -> Result<Image, BuildError> {
    build_in(store, &Cache::open_default()?, options, examine, progress)
}

/// Like [`build`], with a cache of one's own.
///
/// # Errors
/// What could not be built, and what to do.
pub fn build_in(
    store: &Store,
    cache: &Cache,
    options: &BuildOptions,
    examine: &mut dyn FnMut(&Image) -> Result<(), Refusal>,
    progress: &dyn Progress,
) -> Result<Image, BuildError> {
    // What fails fast comes first.
    let agent = Agent::load(&options.agent)?;
    let step = Step::begin(progress, "packing the initramfs");
    let initramfs = initramfs::pack(&agent.bytes, &options.modules)?;
    step.done();
    let held = cache.hold()?;
    let rootfs = Rootfs::choose(cache, options, progress)?;
    let kernel = Kernel::choose(cache, options, progress)?;
    let parts = Parts {
        kernel: Content::File {
            path: &kernel.path,
            digest: Some(kernel.digest),
        },
        initramfs: Content::Bytes(&initramfs),
        rootfs: Content::File {
            path: &rootfs.path,
            digest: Some(rootfs.digest),
        },
        description: Description {
            kernel_release: kernel.release,
            cmdline: cmdline(kernel.cmdline, &options.modules),
            discovery: kernel.discovery,
            agent_release: agent.release,
            agent_protocol: agent.protocol,
            contents: rootfs.contents,
        },
    };
    let digests = [kernel.digest, Digest::of(&initramfs), rootfs.digest];
    let step = Step::begin(progress, &format!("storing image `{}`", options.name));
    let there = stored(store, &options.name, &parts.description, digests);
    if let Some(image) = there.filter(|_| !options.force) {
        step.up_to_date();
        return Ok(image);
    }
    let image = store.publish_if(&options.name, &parts, step, |candidate| {
        Ok::<_, BuildError>(examine(candidate)?)
    })?;
    drop(held);
    // Superseded entries are hundreds of megabytes each, and nobody else collects them. That some
    // could not be removed is no reason to call this build failed.
    let _ = cache.prune();
    Ok(image)
}

/// The kernel's parameters, and for the agent where its modules are.
fn cmdline(kernel: String, modules: &[PathBuf]) -> String {
    if modules.is_empty() {
        return kernel;
    }
    format!("{kernel} sovereign.modules={}", initramfs::MODULES_FOLDER)
}

/// The image of that name, if it is this one and sound.
fn stored(
    store: &Store,
    name: &str,
    description: &Description,
    digests: [Digest; 3],
) -> Option<Image> {
    let manifest = store.inspect(name).ok()?;
    let same = manifest.blobs().map(|blob| blob.digest) == digests;
    (same && description.describes(&manifest))
        .then(|| store.find(name).ok())
        .flatten()
}

/// The kernel of an image to be.
struct Kernel {
    path: PathBuf,
    digest: Digest,
    release: Option<String>,
    cmdline: String,
    discovery: Discovery,
}

impl Kernel {
    fn choose(
        cache: &Cache,
        options: &BuildOptions,
        progress: &dyn Progress,
    ) -> Result<Self, BuildError> {
        if let Some(path) = &options.kernel {
            let kernel = OwnKernel::examine(path)?;
            return Ok(Self {
                digest: digest_of(path)?,
                path: path.clone(),
                release: kernel.release,
                cmdline: own_kernel::CMDLINE.to_owned(),
                discovery: kernel.discovery,
            });
        }
        let built = kernel::build(cache, &Source::Debian, progress)?;
        Ok(Self {
            digest: digest_of(&built.vmlinux)?,
            path: built.vmlinux,
            release: Some(built.release),
            cmdline: kernel::cmdline(),
            discovery: kernel::DISCOVERY,
        })
    }
}

/// The root file system of an image to be.
struct Rootfs {
    path: PathBuf,
    digest: Digest,
    contents: Option<Userland>,
}

impl Rootfs {
    fn choose(
        cache: &Cache,
        options: &BuildOptions,
        progress: &dyn Progress,
    ) -> Result<Self, BuildError> {
        if let Some(path) = &options.rootfs {
            erofs::check(path)?;
            return Ok(Self {
                digest: digest_of(path)?,
                path: path.clone(),
                contents: None,
            });
        }
        let built = rootfs::build(cache, options.force, progress)?;
        Ok(Self {
            path: built.image,
            digest: built.digest,
            contents: Some(built.contents),
        })
    }
}

fn digest_of(path: &Path) -> Result<Digest, BuildError> {
    Digest::of_file(path).map_err(|source| BuildError::Io {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agent_is_told_of_modules_only_where_there_are_any() {
        assert_eq!(cmdline("quiet".to_owned(), &[]), "quiet");
        let line = cmdline("quiet".to_owned(), &[PathBuf::from("virtio_mmio.ko")]);
        assert_eq!(line, "quiet sovereign.modules=/modules");
    }
}
