//! Kernels, disks and images that cannot work: each ends in bounded time, with exit code 125 and a
//! message that says what and what to do.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sovereign_tests::call::{Output, Sovereign};
use sovereign_tests::images::{NO_INIT, Store};
use tempfile::TempDir;

use crate::suite::{Outcome, PASSED, Suite, skip};

/// No error may take longer than a boot's deadline and the engine's own grace.
const BOUND: Duration = Duration::from_secs(60);

pub(crate) fn add(suite: &mut Suite) {
    suite.guest(
        "misuse",
        &[
            ("corrupt_kernel_is_told", corrupt_kernel_is_told),
            ("truncated_kernel_is_told", truncated_kernel_is_told),
            (
                "kernel_without_pvh_note_is_told",
                kernel_without_pvh_note_is_told,
            ),
            (
                "kernel_of_zeros_inside_is_told",
                kernel_of_zeros_inside_is_told,
            ),
            ("missing_kernel_is_told", missing_kernel_is_told),
            ("truncated_root_is_told", truncated_root_is_told),
            ("root_of_noise_is_told", root_of_noise_is_told),
            ("guest_panic_is_told_with_its_console", guest_panic_is_told),
            (
                "guest_without_init_is_told_with_its_console",
                guest_without_init_is_told,
            ),
            (
                "guest_that_resets_itself_is_told",
                guest_that_resets_itself_is_told,
            ),
            (
                "blob_with_a_wrong_hash_is_refused",
                blob_with_a_wrong_hash_is_refused,
            ),
            ("truncated_blob_is_refused", truncated_blob_is_refused),
            (
                "unreadable_kvm_is_told_with_its_remedy",
                unreadable_kvm_is_told,
            ),
        ],
    );
}

/// Checks what holds for every failure of the engine.
fn is_engine_failure(output: &Output, words: &[&str]) -> Result<()> {
    ensure!(output.code() == Some(125), "{output}");
    ensure!(output.stdout.is_empty(), "{output}");
    ensure!(output.wall < BOUND, "{output}");
    let said = output.errors().to_lowercase();
    for word in words {
        ensure!(
            said.contains(&word.to_lowercase()),
            "{word:?} is not mentioned: {output}"
        );
    }
    Ok(())
}

/// Runs `true` with a kernel that holds these bytes.
fn run_kernel(sovereign: &Sovereign, bytes: &[u8]) -> Result<(Output, PathBuf, TempDir)> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("kernel");
    fs::write(&path, bytes)?;
    let output = sovereign
        .run(["--kernel".as_ref(), path.as_os_str(), "true".as_ref()])
        .output()?;
    Ok((output, path, dir))
}

fn image_kernel() -> Result<Vec<u8>> {
    let path = Store::of_this_user()?.default_parts()?.kernel;
    fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}

fn corrupt_kernel_is_told(sovereign: &Sovereign) -> Outcome {
    let (output, path, _dir) = run_kernel(sovereign, &[0x5a; 100_000])?;
    is_engine_failure(&output, &["kernel", &path.to_string_lossy()])?;
    PASSED
}

fn truncated_kernel_is_told(sovereign: &Sovereign) -> Outcome {
    let kernel = image_kernel()?;
    for length in [0, 3, 63, 64, 200, kernel.len() / 2] {
        let cut = kernel.get(..length).context("the kernel is tiny")?;
        let (output, path, _dir) = run_kernel(sovereign, cut)?;
        is_engine_failure(&output, &["kernel", &path.to_string_lossy()])
            .with_context(|| format!("{length} bytes of it"))?;
    }
    PASSED
}

/// `XEN_ELFNOTE_PHYS32_ENTRY`, the note that names the PVH entry point
/// (Linux, `include/xen/interface/elfnote.h`), behind its name's and descriptor's sizes.
fn pvh_note_at(kernel: &[u8]) -> Option<usize> {
    let tail = [&18_u32.to_le_bytes()[..], b"Xen\0"].concat();
    kernel.windows(tail.len()).position(|window| window == tail)
}

fn kernel_without_pvh_note_is_told(sovereign: &Sovereign) -> Outcome {
    let mut kernel = image_kernel()?;
    let at = pvh_note_at(&kernel).context("the image's kernel has no PVH note")?;
    kernel[at] = 99;
    let (output, path, _dir) = run_kernel(sovereign, &kernel)?;
    is_engine_failure(&output, &["kernel", "PVH", &path.to_string_lossy()])?;
    PASSED
}

/// An ELF file that loads and then has nothing to run: the CPU faults, and that must be noticed.
fn kernel_of_zeros_inside_is_told(sovereign: &Sovereign) -> Outcome {
    let mut kernel = image_kernel()?;
    let at = pvh_note_at(&kernel).context("the image's kernel has no PVH note")?;
    let (headers, code) = (0x1000, kernel.len());
    for (index, byte) in kernel.iter_mut().enumerate().take(code).skip(headers) {
        if index.abs_diff(at) > 64 {
            *byte = 0;
        }
    }
    let (output, _, _dir) = run_kernel(sovereign, &kernel)?;
    is_engine_failure(&output, &[])?;
    PASSED
}

fn missing_kernel_is_told(sovereign: &Sovereign) -> Outcome {
    let output = sovereign
        .run(["--kernel", "/no/such/kernel", "true"])
        .output()?;
    is_engine_failure(&output, &["/no/such/kernel"])?;
    PASSED
}

/// Runs `true` on a root file system that holds these bytes.
fn run_root(sovereign: &Sovereign, bytes: &[u8]) -> Result<(Output, TempDir)> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("root.erofs");
    fs::write(&path, bytes)?;
    let output = sovereign
        .run(["--rootfs".as_ref(), path.as_os_str(), "true".as_ref()])
        .output()?;
    Ok((output, dir))
}

fn truncated_root_is_told(sovereign: &Sovereign) -> Outcome {
    let path = Store::of_this_user()?.default_parts()?.rootfs;
    let root = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    for length in [0, 100, 4096] {
        let cut = root.get(..length).context("the root is tiny")?;
        let (output, _dir) = run_root(sovereign, cut)?;
        is_engine_failure(&output, &["root"]).with_context(|| format!("{length} bytes of it"))?;
    }
    // Half of it: the superblock is whole, and what comes later is missing when it is wanted.
    let (output, _dir) = run_root(sovereign, root.get(..root.len() / 2).unwrap_or_default())?;
    ensure!(output.wall < BOUND, "{output}");
    ensure!(
        output.code() != Some(0),
        "half a root ran a command: {output}"
    );
    ensure!(!output.stderr.is_empty(), "{output}");
    PASSED
}

fn root_of_noise_is_told(sovereign: &Sovereign) -> Outcome {
    let noise: Vec<u8> = (0..1_u32 << 18)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let (output, _dir) = run_root(sovereign, &noise)?;
    is_engine_failure(&output, &["root"])?;
    PASSED
}

fn guest_panic_is_told(sovereign: &Sovereign) -> Outcome {
    // Populated by one call: a program that fills memory page by page has its own text evicted and
    // read again for minutes before the kernel gives up.
    let script = "echo 1 > /proc/sys/vm/overcommit_memory && echo 2 > /proc/sys/vm/panic_on_oom && \
        exec python3 -c 'import mmap; mmap.mmap(-1, 1 << 30, flags=mmap.MAP_PRIVATE | \
        mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)'";
    let output = sovereign
        .run(["-u", "root", "--", "sh", "-c", script])
        .output()?;
    is_engine_failure(&output, &["panic", "out of memory"])?;
    PASSED
}

fn guest_without_init_is_told(sovereign: &Sovereign) -> Outcome {
    let images = sovereign.call(["image", "ls", "--json"]).output()?;
    if !images.text().contains(&format!("\"{NO_INIT}\"")) {
        return skip(format!("no image `{NO_INIT}`: `sovereign-gate` makes it"));
    }
    let output = sovereign.run(["--image", NO_INIT, "true"]).output()?;
    is_engine_failure(&output, &["panic"])?;
    PASSED
}

fn guest_that_resets_itself_is_told(sovereign: &Sovereign) -> Outcome {
    // LINUX_REBOOT_CMD_RESTART, reboot(2).
    let program = "import ctypes; ctypes.CDLL(None).reboot(0x01234567)";
    let output = sovereign
        .run(["-u", "root", "--", "python3", "-c", program])
        .output()?;
    is_engine_failure(&output, &[])?;
    PASSED
}

/// A copy of the image store with one file of the default image changed.
fn damaged_store(change: impl FnOnce(&Path) -> Result<()>) -> Result<TempDir> {
    let dir = tempfile::tempdir()?;
    let copy = Store::of_this_user()?.copy_default_to(dir.path())?;
    change(&copy.default_parts()?.kernel)?;
    Ok(dir)
}

fn blob_with_a_wrong_hash_is_refused(sovereign: &Sovereign) -> Outcome {
    let store = damaged_store(|kernel| {
        let mut bytes = fs::read(kernel)?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        replace(kernel, &bytes)
    })?;
    let output = sovereign
        .run(["true"])
        .env("SOVEREIGN_DATA_DIR", store.path())
        .output()?;
    is_engine_failure(&output, &["kernel", "hash", "sovereign image"])?;
    PASSED
}

fn truncated_blob_is_refused(sovereign: &Sovereign) -> Outcome {
    let store = damaged_store(|kernel| {
        let bytes = fs::read(kernel)?;
        replace(kernel, bytes.get(..1000).unwrap_or_default())
    })?;
    let output = sovereign
        .run(["true"])
        .env("SOVEREIGN_DATA_DIR", store.path())
        .output()?;
    is_engine_failure(&output, &["kernel", "1000 bytes", "sovereign image"])?;
    PASSED
}

/// Blobs are read-only files: a changed one takes the place of the old.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let permissions = fs::metadata(path)?.permissions();
    fs::remove_file(path)?;
    fs::write(path, bytes)?;
    fs::set_permissions(path, permissions)?;
    Ok(())
}

fn unreadable_kvm_is_told(sovereign: &Sovereign) -> Outcome {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can make a call as another user");
    }
    // A user of whom nothing is known, in no group: /dev/kvm is closed to it.
    let home = tempfile::tempdir()?;
    let call = sovereign
        .run(["--tier", "microvm", "true"])
        .user(54_321, 54_321);
    let output = call.env("HOME", home.path()).output()?;
    is_engine_failure(&output, &["/dev/kvm"])?;
    let doctor = sovereign.call(["doctor", "--json"]).user(54_321, 54_321);
    let doctor = doctor.env("HOME", home.path()).output()?;
    ensure!(doctor.text().contains("/dev/kvm"), "{doctor}");
    PASSED
}
