//! What a confined command cannot see, reach, change or use up.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process;

use anyhow::{Context, ensure};
use sovereign_tests::call::Sovereign;

use super::{confined, is_installed};
use crate::suite::{Outcome, PASSED, Suite, skip};

pub(crate) fn add(suite: &mut Suite) {
    suite.host(
        "local",
        &[
            ("host_files_are_not_there", host_files_are_not_there),
            ("host_processes_are_not_there", host_processes_are_not_there),
            ("host_network_is_not_there", host_network_is_not_there),
            ("system_is_read_only", system_is_read_only),
            (
                "what_can_be_written_is_bounded",
                what_can_be_written_is_bounded,
            ),
            ("command_has_no_privileges", command_has_no_privileges),
            ("new_namespaces_are_refused", new_namespaces_are_refused),
            ("dangerous_calls_are_refused", dangerous_calls_are_refused),
            ("agent_survives_its_commands", agent_survives_its_commands),
            ("processes_are_bounded", processes_are_bounded),
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

fn host_processes_are_not_there(sovereign: &Sovereign) -> Outcome {
    confined(sovereign, |local| {
        let output = local
            .sh("cat /proc/[0-9]*/comm; kill -0 2 && echo; echo $$")
            .output()?;
        let ours = format!("{:.15}", "sovereign-e2e");
        ensure!(!output.text().lines().any(|name| name == ours), "{output}");
        let script = "ls -d /proc/[0-9]* | wc -l";
        let count: u32 = local.sh(script).output()?.text().parse()?;
        // The agent, its session, the shell, and what the shell has started.
        ensure!(count <= 6, "{count} processes");
        PASSED
    })
}

fn host_network_is_not_there(sovereign: &Sovereign) -> Outcome {
    if !is_installed("python3") {
        return skip("there is no python3");
    }
    let tcp = TcpListener::bind("127.0.0.1:0")?;
    let port = tcp.local_addr()?.port();
    let name = format!("sovereign-e2e-{}", process::id());
    let address = SocketAddr::from_abstract_name(&name)?;
    let _abstract = UnixListener::bind_addr(&address)?;
    confined(sovereign, |local| {
        let script = format!(
            "import socket\n\
             def reach(family, address):\n\
             \x20   try:\n\
             \x20       socket.socket(family).connect(address)\n\
             \x20       print('reached', address)\n\
             \x20   except OSError as error:\n\
             \x20       print(error.errno)\n\
             reach(socket.AF_INET, ('127.0.0.1', {port}))\n\
             reach(socket.AF_INET, ('1.1.1.1', 53))\n\
             reach(socket.AF_UNIX, '\\0{name}')\n\
             try:\n\
             \x20   socket.socket(socket.AF_VSOCK)\n\
             \x20   print('a virtual socket')\n\
             except OSError as error:\n\
             \x20   print(error.errno)\n\
             server = socket.create_server(('127.0.0.1', 0))\n\
             socket.create_connection(server.getsockname())\n\
             print('loopback')\n"
        );
        let output = local.run(["-q", "--", "python3", "-c", &script]).output()?;
        // ECONNREFUSED, ENETUNREACH, ECONNREFUSED (EPERM by Landlock), EAFNOSUPPORT; its own works.
        let lines: Vec<_> = output.stdout.split(|byte| *byte == b'\n').collect();
        ensure!(lines.len() == 6, "{output}");
        ensure!(output.text().starts_with("111\n101\n"), "{output}");
        ensure!(output.text().ends_with("\n97\nloopback"), "{output}");
        ensure!(!output.text().contains("reached"), "{output}");
        PASSED
    })
}

fn system_is_read_only(sovereign: &Sovereign) -> Outcome {
    confined(sovereign, |local| {
        let script = "for folder in / /usr /usr/bin /etc /dev /proc/sys/kernel /run /home /var; do \
                      if touch \"$folder/x\" 2>/dev/null; then echo \"$folder\"; fi; done; \
                      for folder in /tmp /var/tmp /dev/shm \"$HOME\" .; do \
                      touch \"$folder/x\" || echo \"not $folder\"; done; \
                      echo 1 > /proc/sys/kernel/core_pattern && echo core_pattern; pwd";
        let output = local.sh(script).output()?;
        ensure!(output.text() == "/home/sandbox", "{output}");
        PASSED
    })
}

fn what_can_be_written_is_bounded(sovereign: &Sovereign) -> Outcome {
    confined(sovereign, |local| {
        // All folders that can be written to share one bound.
        let script = "for folder in /tmp /var/tmp /dev/shm .; do \
                      dd if=/dev/zero of=\"$folder/x\" bs=1M count=64 2>/dev/null; done; \
                      cat /tmp/x /var/tmp/x /dev/shm/x x | wc -c";
        let args = ["-q", "--overlay-size", "16M", "--", "sh", "-c", script];
        let output = local.run(args).output()?;
        let written: u64 = output.text().parse()?;
        ensure!((8 << 20..=16 << 20).contains(&written), "{written} bytes");
        PASSED
    })
}

fn command_has_no_privileges(sovereign: &Sovereign) -> Outcome {
    confined(sovereign, |local| {
        let script = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status";
        let status = local.sh(script).output()?.text();
        for line in status.lines() {
            let (name, value) = line.split_once(':').context("no field")?;
            let expected = match name {
                "NoNewPrivs" => 1,
                "Seccomp" => 2,
                _ => 0,
            };
            let value = u64::from_str_radix(value.trim(), 16)?;
            ensure!(value == expected, "{line}");
        }
        ensure!(status.lines().count() == 7, "{status}");
        let output = local
            .sh("id -u; id -g; id -G; cat /proc/self/uid_map")
            .output()?;
        ensure!(output.text().starts_with("1000\n1000\n"), "{output}");
        PASSED
    })
}

fn new_namespaces_are_refused(sovereign: &Sovereign) -> Outcome {
    confined(sovereign, |local| {
        for flag in ["--user", "--mount", "--net", "--pid", "--ipc", "--uts"] {
            let output = local.run(["-q", "--", "unshare", flag, "true"]).output()?;
            ensure!(output.code() != Some(0), "{flag}: {output}");
        }
        let limit = local
            .sh("cat /proc/sys/user/max_user_namespaces")
            .output()?;
        ensure!(limit.text() == "0", "{limit}");
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

fn agent_survives_its_commands(sovereign: &Sovereign) -> Outcome {
    confined(sovereign, |local| {
        let script = "kill -9 1; kill -TERM 1; cat /proc/1/environ /proc/2/environ /proc/1/mem; \
                      ls /proc/1/fd /proc/2/fd /proc/1/root/; sleep 0.1; echo alive";
        let output = local.sh(script).output()?;
        ensure!(output.text() == "alive", "{output}");
        PASSED
    })
}

fn processes_are_bounded(sovereign: &Sovereign) -> Outcome {
    confined(sovereign, |local| {
        let output = local.sh("ulimit -u 2>/dev/null || ulimit -p").output()?;
        let bound: u32 = output.text().parse()?;
        ensure!((1..=4096).contains(&bound), "{output}");
        let script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 30 & done; echo all";
        let few = ["-q", "--pids-limit", "10", "--", "sh", "-c", script];
        let output = local.run(few).output()?;
        ensure!(
            output.code() != Some(0) && output.text().is_empty(),
            "{output}"
        );
        PASSED
    })
}
