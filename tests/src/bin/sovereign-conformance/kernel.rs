//! Privileges, devices and interfaces of the kernel that a command does not get.

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, getrlimit};

use crate::facts::Need;
use crate::probes;
use crate::subject::{Runs, Subject, sh, sh_as};
use crate::suite::{Suite, needing};

pub(crate) fn add(suite: &mut Suite) {
    const WALLS: &[Need] = &[Need::Walls];
    suite.add(
        "kernel",
        [
            needing("commands_have_no_capability", WALLS, no_capability),
            needing("privileges_cannot_be_gained", WALLS, no_new_privileges),
            needing(
                "set_user_id_gives_nothing",
                &[Need::OtherUsers],
                set_user_id,
            ),
            needing("devices_mean_no_hardware", WALLS, devices),
            needing("its_files_cannot_be_read_or_written", WALLS, files),
            needing("mounts_are_refused", &[Need::Walls, Need::Python], mounts),
            needing(
                "agent_cannot_be_traced",
                &[Need::Walls, Need::Python],
                tracing,
            ),
            needing(
                "new_namespaces_are_refused",
                &[Need::HostKernel, Need::Python],
                namespaces,
            ),
            needing(
                "dangerous_calls_are_refused",
                &[Need::HostKernel, Need::Python],
                calls,
            ),
            needing(
                "crashes_reach_no_program_of_the_host",
                &[Need::HostKernel],
                no_core,
            ),
        ],
    );
}

/// The fields of `/proc/self/status` with these names.
fn status(subject: &Subject, names: &[&str]) -> Result<Vec<u64>> {
    let text = subject.sh("cat /proc/self/status")?.text();
    let value = |name: &&str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(found, _)| found == name)?;
        u64::from_str_radix(value.trim(), 16).ok()
    };
    let values: Option<Vec<_>> = names.iter().map(value).collect();
    values.context(text)
}

fn no_capability(subject: &Subject) -> Result<()> {
    let sets = status(subject, &["CapInh", "CapPrm", "CapEff", "CapAmb"])?;
    ensure!(sets == [0; 4], "{sets:x?}");
    Ok(())
}

fn no_new_privileges(subject: &Subject) -> Result<()> {
    ensure!(status(subject, &["NoNewPrivs"])? == [1]);
    Ok(())
}

fn set_user_id(subject: &Subject) -> Result<()> {
    let make = "for folder in /tmp /var/tmp /usr/bin; do \
                cp \"$(command -v id)\" $folder/id-7 && chmod 6755 $folder/id-7; done; echo made";
    subject.output(sh_as("root", make), b"")?;
    let run = "/tmp/id-7 -u; /var/tmp/id-7 -u; if test -e /usr/bin/id-7; then /usr/bin/id-7 -u; fi";
    let ended = subject.sh(run)?;
    ensure!(ended.text().starts_with("1000\n1000"), "{ended}");
    ensure!(ended.text().lines().all(|uid| uid == "1000"), "{ended}");
    Ok(())
}

fn devices(subject: &Subject) -> Result<()> {
    let script = "for file in /dev/* /dev/*/*; do test -L $file && continue; \
                  test -b $file -o -c $file || continue; case $file in \
                  /dev/null|/dev/zero|/dev/full|/dev/random|/dev/urandom|/dev/tty|/dev/console) ;; \
                  /dev/ptmx|/dev/pts/*) ;; \
                  *) if (true < $file || true > $file) 2>/dev/null; then echo $file; fi;; \
                  esac; done; \
                  for file in mem kmem port kvm vda sda nvme0n1 kmsg vhost-vsock fuse net/tun; do \
                  if head -c 1 /dev/$file >/dev/null 2>&1; then echo \"read $file\"; fi; done; \
                  mknod mine c 1 1 2>/dev/null && head -c 1 mine >/dev/null 2>&1 && echo mknod; \
                  head -c 3 /dev/zero | wc -c; echo x > /dev/null && echo null; \
                  head -c 3 /dev/urandom | wc -c";
    subject.sh(script)?.says("3\nnull\n3")
}

fn files(subject: &Subject) -> Result<()> {
    let script = "for file in /proc/kcore /proc/kmem /proc/1/mem /proc/1/maps /sys/kernel/debug/* \
                  /sys/firmware/acpi/tables/* /sys/kernel/security/*; do \
                  if test \"$(head -c 1 $file 2>/dev/null | wc -c)\" != 0; then echo \"read $file\"; fi; done; \
                  for file in /proc/sysrq-trigger /proc/sys/kernel/core_pattern \
                  /proc/sys/kernel/hostname /proc/sys/vm/drop_caches /proc/sys/kernel/modprobe \
                  /proc/sys/fs/binfmt_misc/register /sys/kernel/uevent_helper /sys/power/state \
                  /sys/fs/cgroup/cgroup.procs /sys/module/*/parameters/* /proc/irq/*/smp_affinity; do \
                  if test -w $file; then echo \"write $file\"; fi; done; echo end";
    subject.sh(script)?.says("end")
}

/// That every attempt of a probe failed.
fn all_refused(subject: &Subject, probe: &str) -> Result<()> {
    let ended = subject.python(probe)?;
    ended.ends_with(0)?;
    let text = ended.text();
    ensure!(
        !text.is_empty() && text.lines().all(|line| line.starts_with("refused")),
        "{ended}"
    );
    Ok(())
}

fn mounts(subject: &Subject) -> Result<()> {
    all_refused(subject, probes::MOUNTING)
}

fn tracing(subject: &Subject) -> Result<()> {
    all_refused(subject, probes::TRACING)
}

fn namespaces(subject: &Subject) -> Result<()> {
    all_refused(subject, probes::NEW_NAMESPACES)
}

fn calls(subject: &Subject) -> Result<()> {
    all_refused(subject, probes::DANGEROUS_CALLS)
}

fn no_core(subject: &Subject) -> Result<()> {
    // Of a size that makes the kernel give a dump neither to a file nor to a program, and stays so: with none
    // at all it would give one to a program.
    let limits = "set -- $(grep core /proc/self/limits); echo $5 $6";
    let script = format!("{limits}; ulimit -c 0; ulimit -H -c 0; {limits}");
    // What nobody here may raise stays as it is.
    let most = getrlimit(Resource::Core).maximum.unwrap_or(1).min(1);
    let line = format!("{most} {most}");
    subject.sh(&script)?.says(&format!("{line}\n{line}"))?;
    let ended = subject.output(sh("kill -ABRT $$"), b"")?;
    ended.ends_with(134)
}
