//! The image of a container: our own root file system, or any image that the daemon has.
//!
//! Ours is imported from the archive that it was built from, and labelled with the digest of the
//! root file system, so that one of an older build is not taken for it.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bollard::models::ImageInspect;
use bollard::query_parameters::{CreateImageOptionsBuilder, RemoveImageOptionsBuilder};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use sandbox_image::cache::Cache;
use sandbox_image::digest::Digest;
use sandbox_image::lock::{Lock, LockError, Sharing};
use sandbox_image::progress::{Progress, Step, Unit};
use sandbox_image::{DEFAULT_IMAGE, Store, rootfs};
use tokio::time::{interval, sleep};

use super::daemon::Daemon;
use super::error::DockerError;
use crate::error::{ErrorKind, chain};
use crate::tier::facts::Unavailable;

/// What begins the name of an image that the daemon has.
const OF_DAEMON: &str = "docker:";
/// What our images are called.
pub(super) const REPOSITORY: &str = "terminai-sandbox";
/// The label that tells which root file system an image of ours holds.
const LABEL: &str = "sovereign.rootfs";
/// How long another process may take to import the same image.
const IMPORT_PATIENCE: Duration = Duration::from_secs(300);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(50);
/// The archive is sent in pieces of so many bytes.
const PIECE: usize = 1 << 20;
/// How often it is told how much was sent.
const TELL: Duration = Duration::from_millis(100);

/// An image that containers can be made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Loaded {
    pub(super) id: String,
    /// Where its author wants to write.
    pub(super) volumes: Vec<String>,
}

/// Where an image comes from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// The daemon has it.
    Loaded(Loaded),
    /// It has to be imported first.
    Archive(Archive),
}

/// An archive that becomes an image.
#[derive(Debug, Clone)]
pub(super) struct Archive {
    path: PathBuf,
    tag: String,
    digest: Digest,
}

/// Whether a name is that of an image which only a daemon can have.
pub(crate) fn is_of_daemon(name: &str) -> bool {
    name.starts_with(OF_DAEMON)
}

/// Finds the image that is called this.
pub(super) async fn find(daemon: &Daemon, name: &str) -> Result<Source, Unavailable> {
    if let Some(reference) = name.strip_prefix(OF_DAEMON) {
        if reference.is_empty() {
            return Err(Unavailable {
                code: ErrorKind::NoImage,
                cause: format!("{OF_DAEMON} names no image"),
                remedy: Some(format!(
                    "write the image after it: --image {OF_DAEMON}alpine"
                )),
            });
        }
        return match inspect(daemon, reference).await? {
            Some(image) => Ok(Source::Loaded(loaded(&image))),
            None => Err(Unavailable {
                code: ErrorKind::NoImage,
                cause: format!("the daemon has no image {reference:?}"),
                remedy: Some(format!("get it with: {} pull {reference}", daemon.tier)),
            }),
        };
    }
    let manifest = Store::open_default()
        .and_then(|store| store.inspect(name))
        .map_err(|error| Unavailable {
            remedy: Some(format!(
                "for an image of that name that {} has: --image {OF_DAEMON}{name}",
                daemon.tier
            )),
            ..error.into()
        })?;
    let digest = manifest.rootfs.blob.digest;
    let tag = tag_of(name);
    if let Some(image) = inspect(daemon, &format!("{REPOSITORY}:{tag}")).await?
        && holds(&image, digest)
    {
        return Ok(Source::Loaded(loaded(&image)));
    }
    let archive = Cache::open_default()
        .ok()
        .and_then(|cache| rootfs::find_tar(&cache, digest));
    match archive {
        Some(path) => Ok(Source::Archive(Archive { path, tag, digest })),
        None => Err(Unavailable {
            code: ErrorKind::NoArchive,
            cause: format!(
                "the daemon does not have image {name:?}, and the archive that it was built from \
                 is not in the build cache"
            ),
            remedy: Some("build the image on this machine: sovereign image build".to_owned()),
        }),
    }
}

/// Has the daemon load an image, unless somebody else has in the meantime.
pub(super) async fn load(
    daemon: &Daemon,
    source: Source,
    progress: &dyn Progress,
) -> Result<Loaded, DockerError> {
    let archive = match source {
        Source::Loaded(loaded) => return Ok(loaded),
        Source::Archive(archive) => archive,
    };
    let _lock = lock(&archive.path.with_file_name("import.lock"), progress).await?;
    let name = format!("{REPOSITORY}:{}", archive.tag);
    let asked = DockerError::api("looking for an image");
    let old = daemon.api.inspect_image(&name).await;
    let old = match old {
        Ok(image) if holds(&image, archive.digest) => return Ok(loaded(&image)),
        Ok(image) if label_of(&image).is_some() => image.id,
        Ok(_) => None,
        Err(_) => None,
    };
    import(daemon, &archive, progress).await?;
    if let Some(old) = old {
        // One that a container still uses stays.
        let options = RemoveImageOptionsBuilder::default().build();
        let _ = daemon.api.remove_image(&old, Some(options), None).await;
    }
    let image = daemon.api.inspect_image(&name).await.map_err(asked)?;
    Ok(loaded(&image))
}

/// Takes the lock of those who import images. Whoever waits for it can be told to give up.
async fn lock(path: &Path, progress: &dyn Progress) -> Result<Lock, LockError> {
    let purpose = "importing an image into a container engine";
    let begun = Instant::now();
    let mut waiting: Option<Step<'_>> = None;
    loop {
        let at_once = Duration::ZERO;
        let taken = Lock::acquire(path, Sharing::Exclusive, purpose, at_once, &mut |_| {});
        match taken {
            Ok(lock) => {
                if let Some(step) = waiting {
                    step.done();
                }
                return Ok(lock);
            }
            Err(LockError::Held { holder, path, .. }) => {
                if begun.elapsed() >= IMPORT_PATIENCE {
                    let waited = IMPORT_PATIENCE;
                    return Err(LockError::Held {
                        path,
                        holder,
                        waited,
                    });
                }
                waiting
                    .get_or_insert_with(|| Step::begin(progress, &format!("waiting for {holder}")));
            }
            Err(error) => return Err(error),
        }
        sleep(LOOK).await;
    }
}

async fn import(
    daemon: &Daemon,
    archive: &Archive,
    progress: &dyn Progress,
) -> Result<(), DockerError> {
    let failed = |source| DockerError::Archive {
        path: archive.path.clone(),
        source,
    };
    let file = File::open(&archive.path).map_err(failed)?;
    let total = file.metadata().map_err(failed)?.len();
    let step = Step::begin(
        progress,
        &format!("importing the image into {}", daemon.tier),
    );
    let sent = Arc::new(AtomicU64::new(0));
    let options = CreateImageOptionsBuilder::default()
        .from_src("-")
        .repo(REPOSITORY)
        .tag(&archive.tag)
        .changes(vec![format!("LABEL {LABEL}={}", archive.digest.to_hex())])
        .build();
    let body = bollard::body_try_stream(pieces(file, Arc::clone(&sent)));
    let mut answers = Box::pin(daemon.api.create_image(Some(options), Some(body), None));
    let mut tell = interval(TELL);
    loop {
        tokio::select! {
            answer = answers.next() => {
                let Some(answer) = answer else { break };
                let answer = answer.map_err(DockerError::api("importing the image"))?;
                if let Some(message) = answer.error_detail.and_then(|detail| detail.message) {
                    return Err(DockerError::Import { message });
                }
            }
            _ = tell.tick() => {
                step.advance(sent.load(Ordering::Relaxed), Some(total), Unit::Bytes);
            }
        }
    }
    step.done();
    Ok(())
}

/// A file's content, piece by piece, and how much of it was sent.
fn pieces(
    file: File,
    sent: Arc<AtomicU64>,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    stream::unfold(Some((file, sent)), |state| async {
        let (mut file, sent) = state?;
        let mut piece = vec![0; PIECE];
        match file.read(&mut piece) {
            Ok(0) => None,
            Ok(length) => {
                piece.truncate(length);
                sent.fetch_add(length as u64, Ordering::Relaxed);
                Some((Ok(Bytes::from(piece)), Some((file, sent))))
            }
            Err(error) => Some((Err(error), None)),
        }
    })
}

async fn inspect(daemon: &Daemon, reference: &str) -> Result<Option<ImageInspect>, Unavailable> {
    match daemon.api.inspect_image(reference).await {
        Ok(image) => Ok(Some(image)),
        Err(bollard::errors::Error::DockerResponseServerError {
            status_code: 404, ..
        }) => Ok(None),
        Err(error) => Err(Unavailable {
            code: ErrorKind::ImageUnusable,
            cause: format!("cannot look for image {reference:?}: {}", chain(&error)),
            remedy: None,
        }),
    }
}

/// The default image is the latest; others are called by their own names.
pub(super) fn tag_of(name: &str) -> String {
    let tag = if name == DEFAULT_IMAGE {
        "latest"
    } else {
        name
    };
    tag.to_owned()
}

fn label_of(image: &ImageInspect) -> Option<&String> {
    let labels: &HashMap<_, _> = image.config.as_ref()?.labels.as_ref()?;
    labels.get(LABEL)
}

fn holds(image: &ImageInspect, digest: Digest) -> bool {
    label_of(image).is_some_and(|label| *label == digest.to_hex())
}

fn loaded(image: &ImageInspect) -> Loaded {
    let volumes = image
        .config
        .as_ref()
        .and_then(|config| config.volumes.as_ref());
    Loaded {
        id: image.id.clone().unwrap_or_default(),
        volumes: volumes.into_iter().flatten().cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::Mutex;

    use bollard::models::ImageConfig;
    use sandbox_image::progress::Event;
    use tokio::time::timeout;

    use super::*;
    use crate::tier::docker::{unless_cancelled, with_runtime};

    /// The names of the steps that were begun.
    #[derive(Debug, Default)]
    struct Steps(Mutex<Vec<String>>);

    impl Progress for Steps {
        fn report(&self, event: &Event<'_>) {
            if let Event::Started { name, .. } = event {
                self.0.lock().unwrap().push((*name).to_owned());
            }
        }
    }

    #[test]
    fn whoever_waits_for_an_import_is_told_and_can_give_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("import.lock");
        let steps = Steps::default();
        let take = || async { Ok(lock(&path, &steps).await?) };
        let taken = with_runtime(|runtime| runtime.block_on(take())).unwrap();
        let (cancel, gives_up) = std::io::pipe().unwrap();
        drop(gives_up);
        let given_up = with_runtime(|runtime| {
            let waiting = unless_cancelled(Some(cancel.as_fd()), take());
            runtime.block_on(async { timeout(Duration::from_secs(10), waiting).await })
        });
        let given_up = given_up.unwrap().unwrap();
        assert!(matches!(given_up, Err(DockerError::Interrupted)));
        let told = steps.0.lock().unwrap().join("; ");
        let us = format!("waiting for process {} (importing", std::process::id());
        assert!(told.starts_with(&us), "{told}");
        drop(taken);
        with_runtime(|runtime| runtime.block_on(take()))
            .unwrap()
            .unwrap();
    }

    fn labelled(label: &str) -> ImageInspect {
        let labels = HashMap::from([(LABEL.to_owned(), label.to_owned())]);
        ImageInspect {
            config: Some(ImageConfig {
                labels: Some(labels),
                ..ImageConfig::default()
            }),
            ..ImageInspect::default()
        }
    }

    #[test]
    fn an_image_of_another_build_is_not_taken() {
        let digest = Digest::of(b"this");
        assert!(holds(&labelled(&digest.to_hex()), digest));
        assert!(!holds(&labelled(&Digest::of(b"other").to_hex()), digest));
        assert!(!holds(&ImageInspect::default(), digest));
    }

    #[test]
    fn the_default_image_is_the_latest() {
        assert_eq!(tag_of(DEFAULT_IMAGE), "latest");
        assert_eq!(tag_of("mine"), "mine");
    }
}
