//! What this tier keeps from a confined command beyond what every sandbox does (`sovereign-conformance`).

use anyhow::{Context, ensure};
use sovereign_tests::call::Sovereign;

use super::{confined, is_installed};
use crate::suite::{Outcome, PASSED, Suite, skip};

pub(crate) fn add(suite: &mut Suite) {
    suite.host(
        "local",
        &[
            ("host_files_are_not_there", host_files_are_not_there),
            ("dangerous_calls_are_refused", dangerous_calls_are_refused),
        ],
    );
}

fn host_files_are_not_there(sovereign: &Sovereign) -> Outcome {
    // It would be readable for everybody, if it were there.
    let secret = tempfile::Builder::new()
        .prefix("secret")
        .tempfile_in("/var/tmp")?;
    let path = secret.path().to_str().context("a strange name")?.to_owned();
    confined(sovereign, |local| {
        let script = format!(
            "for file in {path} /root /etc/shadow /etc/gshadow /etc/machine-id /home/*/.ssh \
             /run/* /var/log /var/lib /boot /sys/* /mnt /opt /srv; do \
             if test -e \"$file\"; then echo \"$file\"; fi; done; ls /home"
        );
        let output = local.sh(&script).output()?;
        // What is in the folder of ours that is there is copied (`python.rs`).
        let text = output.text();
        let strange = text.lines().filter(|line| *line != "/run/sovereign");
        ensure!(strange.eq(["sandbox"]), "{output}");
        let root = local.run(["-q", "--", "ls", "/"]).output()?.text();
        let known = [
            "bin", "dev", "etc", "gnu", "home", "lib", "lib32", "lib64", "libx32", "nix", "proc",
            "run", "sbin", "sys", "tmp", "usr", "var",
        ];
        let strange: Vec<_> = root.lines().filter(|name| !known.contains(name)).collect();
        ensure!(strange.is_empty(), "{strange:?}");
        PASSED
    })
}

fn dangerous_calls_are_refused(sovereign: &Sovereign) -> Outcome {
    if !is_installed("python3") {
        return skip("there is no python3");
    }
    // Numbers of x86-64: bpf, keyctl, userfaultfd, io_uring_setup, perf_event_open, clone3, and getpid
    // by the x32 interface.
    let script = "import ctypes, os\n\
                  libc = ctypes.CDLL(None, use_errno=True)\n\
                  for number in (321, 250, 323, 425, 298, 435, 0x40000027):\n\
                  \x20   result = libc.syscall(number, 0, 0, 0, 0, 0)\n\
                  \x20   print(ctypes.get_errno() if result < 0 else 'done', end=' ')\n";
    confined(sovereign, |local| {
        let output = local.run(["-q", "--", "python3", "-c", script]).output()?;
        ensure!(output.text() == "1 1 1 1 1 38 38", "{output}");
        PASSED
    })
}
